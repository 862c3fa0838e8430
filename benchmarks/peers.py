"""kdcache against other ways to keep a teacher's logits, all in one run and of the same logits.

    python benchmarks/peers.py [LOGITS.npz] [--images N] [--kills N] [--check] [--json]

LOGITS.npz holds `teacher` and `student`, raw logits `[views, classes]`, and may hold `image_id`
and `head` (benchmarks/README.md says how to make one). Codecs are fitted on the views of one half
of its images; those of the other half are kept, over and over with a little noise until there are N
images under 4 seeds. Without a file logits are drawn, whose bytes say nothing of a real teacher.

The peers are written here from their published formats, as plainly as may be; their own code may do
better or worse. They do not sync what they write; kdcache does, and waits for it. Reading is of one
seed, in batches of 256 views, from the page cache, with one thread. `random` is an epoch in random
order, `pass` is one in the order in which views lie. kdcache reads random rows from a slab, which
is made once on each machine; `slab` is how fast. Bytes are of all files but what a cache has once,
whatever it holds.

With --kills each writer is killed so often, at a random moment. `kept` is the share of the views
that it had been given by then that can be read afterwards and are right; `told` is how many times
a plain pass over the seed that it was at raised an error, and did not just end early.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kills import kill_all
from measure import Times, interleave, make_parser, report, spreads
from peer_stores import BatchFiles, Full, Parquet, Pickles, RawFile, Tar, TopK
from stores import (
    BATCH,
    Entries,
    Kdcache,
    KdcacheReader,
    Reader,
    Records,
    Variant,
    batches,
)
from torch import Tensor

from kdcache.codec_error.calibration import fit_codec
from kdcache.codec_error.measure import codec_costs
from kdcache.codec_error.npz_pairs import pairs_from_npz
from kdcache.codec_error.pairs import Pairs
from kdcache.codecs import open_codec

SEEDS = 4
NOISE = 0.05
"""Of views that come again, so that no compressor finds them: far below the deviation of logits."""
IMAGENET = 1_281_167
FIT_AND_MANIFEST = ("codec", "zarr.json", "manifest.json")
"""What a cache has once, however many views it holds."""
DEFAULT = "lowrank:error=0.3"
WHOLE = "lowrank:step=0.45"
PLAIN = "memory map"
RAW = "raw entries, k=10"


def drawn_pairs() -> Pairs:
    """Return logits of 64 features, with the spread of an unsure teacher of 1,000 classes."""
    generator = torch.Generator().manual_seed(0)
    head = torch.randn(1000, 64, generator=generator) / 4
    features = torch.randn(2048, 64, generator=generator)
    other = features + 0.5 * torch.randn(2048, 64, generator=generator)
    return Pairs(
        teacher=features @ head.T,
        student=other @ head.T,
        groups=np.arange(2048),
        proxy="drawn",
        head=head,
    )


def views_of(logits: Tensor, count: int) -> Tensor:
    """Return `count` views, `[count, classes]`: those given, then the same again with noise."""
    generator = torch.Generator().manual_seed(0)
    parts = [logits]
    while sum(map(len, parts)) < count:
        order = torch.randperm(len(logits), generator=generator)
        noise = NOISE * torch.randn(logits.shape, generator=generator)
        parts.append(logits[order] + noise)
    return torch.cat(parts)[:count]


def make_variants(fitting: Pairs, rows: int) -> dict[str, Variant]:
    """Return the ways to keep views, by name."""
    classes = fitting.teacher.shape[1]
    most = min(100, classes // 2)
    few = TopK(10, classes)
    many = TopK(most, classes)
    whole = Full(classes)
    variants: dict[str, Variant] = {
        "pickle per image, k=10": Variant(Pickles(few), few),
        RAW: Variant(RawFile(few), few),
        "parquet, k=10": Variant(Parquet(few), few),
        "tar member per image, k=10": Variant(Tar(few), few),
        f"raw entries, k={most}": Variant(RawFile(many), many),
        "file per batch, float16": Variant(BatchFiles(whole), whole),
    }
    specs = ("topk:k=10", f"topk:k={most}", "full:dtype=float16", DEFAULT)
    for spec in specs:
        codec = open_codec(spec, classes=classes)
        records = Records(fit_codec(codec, fitting).codec)
        variants[f"kdcache {spec}"] = Variant(Kdcache(records, rows), records)
        if spec == "topk:k=10":
            tars = Kdcache(records, rows, tar_seeds=SEEDS)
            variants[f"kdcache {spec}, webdataset"] = Variant(tars, records)
    return variants


def measure(
    folder: Path, variants: dict[str, Variant], views: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Return bytes and rates of each variant, and how fast kdcache gathers beside others."""
    num_views = views.shape[0] * views.shape[1]
    writing = interleave(
        {name: writer(variant, folder / slug(name), views) for name, variant in variants.items()},
        options.repetitions,
        before={name: remover(folder / slug(name)) for name in variants},
    )
    readers = {name: variant.store.open(folder / slug(name)) for name, variant in variants.items()}
    reading = interleave(reads(variants, readers, folder, options), options.repetitions)
    cases = {}
    for name in variants:
        case = {
            **sizes(folder / slug(name), num_views),
            "write": rates(num_views, writing[name]),
        }
        for what in ("random", "random, probabilities", "pass", "slab"):
            if (times := reading.get(f"{name}: {what}")) is not None:
                case[what] = rates(views.shape[1], times)
        cases[name] = case
    ours = reading["kdcache topk:k=10: random"]
    return {
        "variants": cases,
        "gather_over_take": spreads(ours / reading[f"{PLAIN}: random"]),
        "raw_over_gather": spreads(reading[f"{RAW}: random"] / ours),
    }


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def writer(variant: Variant, path: Path, views: Tensor) -> Callable[[int], None]:
    by_image = variant.store.by_image
    return lambda _: variant.store.write(path, batches(views, by_image=by_image))


def remover(path: Path) -> Callable[[], None]:
    return lambda: shutil.rmtree(path, ignore_errors=True)


def reads(
    variants: dict[str, Variant],
    readers: dict[str, Reader],
    folder: Path,
    options: argparse.Namespace,
) -> dict[str, Callable[[int], object]]:
    """Return what is timed of each reader; repetition r reads seed r mod 4."""

    @cache
    def orders(repetition: int) -> list[np.ndarray]:
        order = np.random.default_rng(repetition).permutation(options.images)
        return np.array_split(order, max(len(order) // BATCH, 1))

    def random(reader: Reader, convert: Callable[[Entries], object]) -> Callable[[int], None]:
        def read(repetition: int) -> None:
            for rows in orders(repetition):
                convert(reader.read(rows, repetition % SEEDS))

        return read

    def in_order(reader: Reader, convert: Callable[[Entries], object]) -> Callable[[int], None]:
        def read(repetition: int) -> None:
            for entries in reader.scan(repetition % SEEDS):
                convert(entries)

        return read

    def slab(reader: KdcacheReader) -> Callable[[int], None]:
        def read(repetition: int) -> None:
            reader.forget()
            reader.read(np.arange(1), repetition % SEEDS)

        return read

    timed: dict[str, Callable[[int], object]] = {}
    for name, (_, payload) in variants.items():
        reader = readers[name]
        if isinstance(reader, KdcacheReader):
            timed[f"{name}: slab"] = slab(reader)
        for seed in range(SEEDS):
            reader.read(np.arange(1), seed)  # opens what is opened once
        timed[f"{name}: random"] = random(reader, payload.tensors)
        timed[f"{name}: random, probabilities"] = random(reader, payload.probs)
        timed[f"{name}: pass"] = in_order(reader, payload.tensors)
    ours = variants["kdcache topk:k=10"].payload
    timed[f"{PLAIN}: random"] = random(plain_map(folder, readers, options.images), ours.tensors)
    return timed


def plain_map(folder: Path, readers: dict[str, Reader], rows: int) -> Reader:
    """Return a reader that takes rows of kdcache's records from a memory map, and does nothing
    else."""
    records = readers["kdcache topk:k=10"].read(np.arange(rows), 0)
    path = folder / "records.npy"
    np.save(path, records.view(np.uint8).reshape(rows, -1))
    mapped = np.load(path, mmap_mode="r").view(np.ndarray)

    class Plain:
        def read(self, rows: np.ndarray, seed: int) -> Entries:
            return mapped.take(rows, axis=0).view(records.dtype)[:, 0]

        def scan(self, seed: int) -> Iterator[Entries]:
            raise NotImplementedError

    return Plain()


def rates(count: int, times: Times) -> dict[str, dict[str, float]]:
    return spreads(count / times)


def sizes(folder: Path, num_views: int) -> dict[str, float]:
    """Return bytes a view, those of the blocks of the disk, files, and bytes that a store has
    once."""
    once = 0
    growing = 0
    blocks = 0
    files = 0
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        status = path.stat()
        if path.relative_to(folder).parts[0] in FIT_AND_MANIFEST:
            once += status.st_size
            continue
        growing += status.st_size
        blocks += 512 * status.st_blocks
        files += 1
    return {
        "bytes": growing / num_views,
        "disk_bytes": blocks / num_views,
        "bytes_once": once,
        "files": files,
    }


def goals(
    result: dict[str, Any], fitting: Pairs, measured: Pairs
) -> dict[str, tuple[float, float]]:
    """Return what was measured and what it is to be at most, for each goal that can be checked
    here."""
    small_cache = result["variants"]["kdcache topk:k=10"]["bytes"]
    settings: dict[str, Any] = {"taus": [1.0, 4.0], "batch_sizes": [BATCH]}
    few, cost = codec_costs(fitting, measured, ["topk:k=10", WHOLE], **settings)["codecs"]
    checks = {
        "topk:k=10, bytes a view of a large cache": (few["bytes"], 27.0),
        "topk:k=10, MB of an epoch of ImageNet-1k": (small_cache * IMAGENET / 1e6, 35.0),
        f"{WHOLE}, bytes a view of a large cache": (cost["bytes"], 200.0),
        "time of gather / take": (result["gather_over_take"]["cpu"]["median"], 1.5),
        "time of gather / raw entries": (1 / result["raw_over_gather"]["cpu"]["median"], 1.0),
    }
    for case in cost["gradients"]:
        name = f"{WHOLE}, error of DIST's gradient, tau {case['tau']:g}"
        checks[name] = case["both"]["error"], 0.10
    return checks


def lines_of(result: dict[str, Any]) -> dict[str, str]:
    """Return a line for each variant, in thousands of views per second of processor time; of
    writing, which waits for the disk, by the clock."""
    lines = {}
    for name, case in result["variants"].items():
        words = [f"{case['bytes']:7.1f} bytes ({case['disk_bytes']:.0f} on disk)"]
        words.append(f"write {case['write']['wall']['median'] / 1e3:.1f}")
        for what in ("random", "random, probabilities", "pass", "slab"):
            if what in case:
                words.append(f"{what} {case[what]['cpu']['median'] / 1e3:.0f}")
        left = result["kills"].get(name)
        if left:
            kept = left["kept"]
            words.append(f"kept {kept['median']:.2f} ({kept['min']:.2f} to {kept['max']:.2f})")
            words.append(f"wrong {left['wrong']}, told {left['told']} of {len(left['kills'])}")
        lines[name] = ", ".join(words)
    lines |= {"time of gather / take": result["gather_over_take"]}
    lines |= {"time of raw entries / gather": result["raw_over_gather"]}
    return lines


def main() -> None:
    parser = make_parser(__doc__, repetitions=5)
    parser.add_argument("logits", nargs="?", help="an .npz file with `teacher` and `student`")
    parser.add_argument("--images", type=int, default=4096, help="each has 4 views")
    parser.add_argument("--kills", type=int, default=0, help="of each writer")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = pairs_from_npz(options.logits) if options.logits else drawn_pairs()
    fitting, measured = pairs.halves()
    views = views_of(measured.teacher, SEEDS * options.images)
    views = views.reshape(options.images, SEEDS, -1).transpose(0, 1).contiguous()
    variants = make_variants(fitting, options.images)
    with tempfile.TemporaryDirectory() as name:
        os.environ["KDCACHE_HOME"] = name
        result = measure(Path(name), variants, views, options)
        result["kills"] = kill_all(Path(name), variants, views, options.kills)
    lines: dict[str, Any] = dict(lines_of(result))
    checks = goals(result, fitting, measured) if options.check else {}
    for goal, (value, most) in checks.items():
        lines[f"goal: {goal}"] = (
            f"{value:.4g}, at most {most:g}{'' if value <= most else ': MISSED'}"
        )
    settings = {"images": options.images, "seeds": SEEDS, "repetitions": options.repetitions}
    everything = {"benchmark": "peers", "logits": bool(options.logits), **settings, **result}
    report({**everything, "goals": checks}, lines, as_json=options.json)
    if any(value > most for value, most in checks.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
