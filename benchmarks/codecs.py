"""How fast codecs encode and decode, on one core: against a teacher of 5,000 views per second, and
against a bare product.

    python benchmarks/codecs.py LOGITS.npz [--repetitions N] [--json]
    python benchmarks/codecs.py LOGITS.npz --splits N [--codec SPEC] [--without-head] [--json]

The second measures instead what a codec costs over N ways to split the images in halves, one to fit
on and one to measure on.

LOGITS.npz holds `teacher`, raw logits `[views, classes]`, and may hold `head`, the weights of the
teacher's last layer (benchmarks/README.md says how to make one). Encoding is of 1,024 views, and
counts only the codec, not the store. Decoding is of 256 views to probabilities at tau 4, what a
batch of training asks for; beside it stands the softmax alone, from logits in float32 that need no
decoding, and for lowrank a matrix product of the decoder's shape, the least it could take. What is
printed is the fastest repetition, which other work on the machine disturbed least; --json has them
all.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from measure import interleave, make_parser, report, spread

from kdcache.codec_error.calibration import TAUS
from kdcache.codec_error.measure import codec_costs
from kdcache.codec_error.measured_views import BATCH
from kdcache.codec_error.npz_pairs import pairs_from_npz
from kdcache.codec_error.pairs import Pairs
from kdcache.codecs import BasisCodec, Codec, open_codec

CODECS = ["full:dtype=float16", "full:dtype=uint8", "full:dtype=uint4", "topk:k=10", "topk:k=100"]
STEPS = (0.45, 0.7, 1, 2, 4)
TEACHER = 5000
ENCODED = 1024
DECODED = 256
TAU = 4.0


def main() -> None:
    parser = make_parser(__doc__, repetitions=15)
    parser.add_argument("logits", help="an .npz file with `teacher`")
    parser.add_argument(
        "--splits", type=int, help="measure bytes and errors over so many splits, not speed"
    )
    parser.add_argument(
        "--codec", default="lowrank:bytes=195", help="that is measured over the splits"
    )
    parser.add_argument(
        "--without-head", action="store_true", help="fit without `head`, over the splits"
    )
    options = parser.parse_args()
    if options.splits:
        measure_splits(options)
        return
    torch.set_num_threads(1)
    with np.load(options.logits, allow_pickle=False) as arrays:
        logits = torch.from_numpy(arrays["teacher"]).float()
        head = torch.from_numpy(arrays["head"]).float() if "head" in arrays else None
    specs = CODECS + [f"lowrank:step={step}" for step in STEPS]
    codecs = {
        spec: fitted(open_codec(spec, classes=logits.shape[1]), logits, head) for spec in specs
    }
    part = logits[:ENCODED]
    encoding = interleave(
        {spec: encoder(codec, part) for spec, codec in codecs.items()}, options.repetitions
    )
    decoding = interleave(decoders(codecs, part[:DECODED]), options.repetitions)
    cases = {}
    lines = {}
    for spec in specs:
        rate = len(part) / encoding[spec][:, 0]
        milliseconds = 1e3 * decoding[spec][:, 0]
        least = decoding.get(f"{spec} product", decoding["softmax"])[:, 0]
        cases[spec] = {
            "encode_views_per_second": spread(rate),
            "encode_over_teacher": spread(rate / TEACHER),
            "decode_ms": spread(milliseconds),
            "decode_over_least": spread(decoding[spec][:, 0] / least),
        }
        best = rate.max()
        ratio = decoding[spec][:, 0].min() / least.min()
        lines[spec] = (
            f"encodes {best:8.0f} views/s ({best / TEACHER:.1f} x a teacher of {TEACHER}), decodes"
            f" {DECODED} in {milliseconds.min():5.2f} ms ({ratio:.2f} x the least,"
            f" {1e3 * least.min():.2f} ms)"
        )
    settings = {"classes": logits.shape[1], "repetitions": options.repetitions}
    report({"benchmark": "codecs", **settings, "codecs": cases}, lines, as_json=options.json)


def measure_splits(options: argparse.Namespace) -> None:
    pairs = pairs_from_npz(options.logits)
    pairs = replace(pairs, head=None) if options.without_head else pairs
    cases = [one_split(pairs, options.codec, split) for split in range(options.splits)]
    means = {name: mean_and_error([case[name] for case in cases]) for name in cases[0]}
    lines = {f"split {split}": case for split, case in enumerate(cases)}
    lines |= {name: f"{mean:.4g} +- {error:.2g}" for name, (mean, error) in means.items()}
    settings = {"codec": options.codec, "head": pairs.head is not None}
    report(
        {"benchmark": "codecs", **settings, "splits": cases, "means": means},
        lines,
        as_json=options.json,
    )


def one_split(pairs: Pairs, spec: str, split: int) -> dict[str, float]:
    fitting, measured = pairs.halves(split)
    (cost,) = codec_costs(fitting, measured, [spec], taus=TAUS, batch_sizes=[BATCH])["codecs"]
    errors = {
        f"{term}, tau {one['tau']:g}": one[term]["error"]
        for term in ("both", "kl")
        for one in cost["gradients"]
    }
    return {"bytes": cost["bytes"], **errors}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error, nan of a single value."""
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def fitted(codec: Codec, logits: torch.Tensor, head: torch.Tensor | None) -> Codec:
    return codec.fit(logits, head) if isinstance(codec, BasisCodec) else codec.fit(logits)


def encoder(codec: Codec, logits: torch.Tensor) -> Callable[[int], object]:
    return lambda _: codec.encode(logits)


def decoders(codecs: dict[str, Codec], logits: torch.Tensor) -> dict[str, Callable[[int], object]]:
    variants: dict[str, Callable[[int], object]] = {
        "softmax": lambda _: torch.softmax(logits / TAU, 1)
    }
    for spec, codec in codecs.items():
        records = codec.encode(logits)
        variants[spec] = lambda _, codec=codec, records=records: codec.decode(records).probs(TAU)  # type: ignore[misc]
        if isinstance(codec, BasisCodec) and codec.fitted is not None:
            integers = torch.randn(len(logits), len(codec.fitted.basis))
            basis = torch.from_numpy(codec.fitted.basis)
            variants[f"{spec} product"] = lambda _, a=integers, b=basis: torch.softmax(
                (a @ b) / TAU, 1
            )  # type: ignore[misc]
    return variants


if __name__ == "__main__":
    main()
