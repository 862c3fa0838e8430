"""kdcache against other ways to keep a teacher's logits, all in one run and of the same logits.

    python benchmarks/peers.py [LOGITS.npz] [--images N] [--kills N] [--check] [--json]

LOGITS.npz holds `teacher` and `student`, raw logits `[views, classes]`, and may hold `image_id` and
`head` (benchmarks/README.md says how to make one). Codecs are fitted on the views of one half of its
images; those of the other half are kept, over and over with a little noise until there are N images
under 4 seeds. Without a file logits are drawn, whose bytes say nothing of a real teacher.

The peers are written here from their published formats, as plainly as may be; their own code may do
better or worse. They do not sync what they write; kdcache does, and waits for it. Reading is of one
seed, in batches of 256 views, from the page cache, with one thread. `random` is an epoch in random
order, `pass` is one in the order in which views lie. kdcache reads random rows from a slab, which is
made once on each machine; `slab` is how fast.

With --kills each writer is killed so often, at a random moment. `kept` is the share of the views
that it had been given by then that can be read afterwards and are right; `told` is how many times
a plain pass over the seed that it was at raised an error, and did not just end early.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from measure import Times, interleave, make_parser, report, spread, spreads
from peer_stores import (
    BATCH,
    BatchFiles,
    Entries,
    Full,
    Kdcache,
    KdcacheReader,
    Parquet,
    Payload,
    Pickles,
    RawFile,
    Reader,
    Records,
    Store,
    Tar,
    TopK,
    ViewBatch,
    by_seed,
)
from torch import Tensor

from kdcache.codec_error.measure import codec_costs
from kdcache.codec_error.npz_pairs import pairs_from_npz
from kdcache.codec_error.pairs import Pairs
from kdcache.codecs import BasisCodec, open_codec

SEEDS = 4
NOISE = 0.05
"""Of views that come again, so that no compressor finds them: far below the deviation of logits."""
IMAGENET = 1_281_167
FIT_AND_MANIFEST = ("codec", "zarr.json", "manifest.json")
"""What a cache has once, however many views it holds."""
WHOLE = "lowrank:step=0.45"
PLAIN = "memory map"
RAW = "raw entries, k=10"


class Variant(NamedTuple):
    store: Store
    payload: Payload


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


def batches(views: Tensor, *, by_image: bool) -> Iterator[ViewBatch]:
    """Yield the views, `[seeds, rows, classes]`, as a teacher gives them in the order of a store."""
    num_seeds, num_rows, classes = views.shape
    groups = [list(range(num_seeds))] if by_image else [[seed] for seed in range(num_seeds)]
    for seeds in groups:
        size = BATCH // len(seeds)
        for start in range(0, num_rows, size):
            rows = np.arange(start, min(start + size, num_rows))
            logits = views[seeds[0] : seeds[-1] + 1, start : start + size]
            yield ViewBatch(seeds, rows, logits.reshape(-1, classes))


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
    specs = ("topk:k=10", f"topk:k={most}", "full:dtype=float16", "lowrank:step=2")
    for spec in specs:
        codec = open_codec(spec, classes=classes)
        if isinstance(codec, BasisCodec):
            records = Records(codec.fit(fitting.teacher, fitting.head))
        else:
            records = Records(codec.fit(fitting.teacher))
        variants[f"kdcache {spec}"] = Variant(Kdcache(records, rows), records)
        if spec == "topk:k=10":
            tars = Kdcache(records, rows, tar_seeds=SEEDS)
            variants[f"kdcache {spec}, webdataset"] = Variant(tars, records)
    return variants


def measure(
    folder: Path, variants: dict[str, Variant], views: Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Return bytes and rates of each variant, and how fast kdcache gathers beside a plain `take`."""
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


def killed(variant: Variant, folder: Path, views: Tensor, random: np.random.Generator) -> int:
    """Kill a writer in the middle; return the views that it had been given by then."""
    num_views = views.shape[0] * views.shape[1]
    context = multiprocessing.get_context("fork")
    given = context.Value("q", 0)

    def counted() -> Iterator[ViewBatch]:
        for batch in batches(views, by_image=variant.store.by_image):
            given.value += len(batch.logits)
            yield batch

    process = context.Process(target=variant.store.write, args=(folder, counted()))
    target = random.uniform(0.2, 0.8) * num_views
    start = time.perf_counter()
    process.start()
    while given.value < target and process.is_alive():
        time.sleep(0.0001)
    batch_seconds = (time.perf_counter() - start) * BATCH / max(given.value, 1)
    time.sleep(random.uniform(0, batch_seconds))
    process.kill()
    process.join()
    if process.exitcode == -signal.SIGKILL:
        return int(given.value)
    # it was done first, on a busy machine
    shutil.rmtree(folder)
    return killed(variant, folder, views, random)


def what_is_left(variant: Variant, folder: Path, views: Tensor, given: int) -> dict[str, Any]:
    """Return how many views can be read one by one, how many of them are wrong, and whether a pass
    over the seed that the writer was at raises."""
    right = 0
    wrong = 0
    open_store = cache(lambda: variant.store.open(folder))  # again, where it cannot be opened
    for batch in batches(views, by_image=variant.store.by_image):
        expected = by_seed(batch, variant.payload.encode(batch.logits))
        for place, seed in enumerate(batch.seeds):
            for rows, entries in readable(open_store, batch.rows, seed):
                exact = expected[place, rows - batch.rows[0]]
                is_right = (raw_bytes(entries) == raw_bytes(exact)).all(1)
                right += int(is_right.sum())
                wrong += int((~is_right).sum())
    seed = 0 if variant.store.by_image else (given - 1) // views.shape[1]
    told = pass_raises(variant, folder, seed)
    return {"given": given, "right": right, "wrong": wrong, "pass_raises": told}


def raw_bytes(entries: Entries) -> np.ndarray:
    return np.ascontiguousarray(entries).view(np.uint8).reshape(len(entries), -1)


def readable(
    open_store: Callable[[], Reader], rows: np.ndarray, seed: int
) -> Iterator[tuple[np.ndarray, Entries]]:
    """Yield the rows that can be read, with what is read: all, or those of either half."""
    try:
        entries = open_store().read(rows, seed)
    except Exception:  # noqa: BLE001 (whatever a reader of a cut file raises)
        if len(rows) > 1:
            middle = len(rows) // 2
            yield from readable(open_store, rows[:middle], seed)
            yield from readable(open_store, rows[middle:], seed)
        return
    yield rows, entries


def pass_raises(variant: Variant, folder: Path, seed: int) -> bool:
    try:
        for _ in variant.store.open(folder).scan(seed):
            pass
    except Exception:  # noqa: BLE001
        return True
    return False


def kill_all(
    folder: Path, variants: dict[str, Variant], views: Tensor, kills: int
) -> dict[str, Any]:
    """Return, by variant, what was left after each of its kills; nothing if there were none."""
    cases: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for kill in range(kills):
        for name, variant in variants.items():
            path = folder / f"killed-{slug(name)}"
            given = killed(variant, path, views, np.random.default_rng(kill))
            cases[name].append(what_is_left(variant, path, views, given))
            shutil.rmtree(path, ignore_errors=True)
    if not kills:
        return {}
    return {name: summary(of_variant) for name, of_variant in cases.items()}


def summary(cases: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kills": cases,
        "kept": spread([case["right"] / case["given"] for case in cases]),
        "wrong": sum(case["wrong"] for case in cases),
        "told": sum(case["pass_raises"] for case in cases),
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
