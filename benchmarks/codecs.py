"""How fast codecs encode and decode, on one core: against a teacher of 5,000 views per second, and against a bare product.

    python benchmarks/codecs.py LOGITS.npz [--repetitions N] [--json]

LOGITS.npz holds `teacher`, raw logits `[views, classes]`, and may hold `head`, the weights of the teacher's last layer
(benchmarks/README.md says how to make one). Encoding is of 1,024 views, and counts only the codec, not the store. Decoding is
of 256 views to probabilities at tau 4, what a batch of training asks for; beside it stands the softmax alone, from logits in
float32 that need no decoding, and for lowrank a matrix product of the decoder's shape, the least it could take.
"""

from collections.abc import Callable

import numpy as np
import torch
from measure import interleave, make_parser, report, spread

from kdcache.codecs import Codec, open_codec
from kdcache.codecs.lowrank import LowRank

CODECS = ["full:dtype=float16", "full:dtype=uint8", "full:dtype=uint4", "topk:k=10", "topk:k=100"]
STEPS = (0.44, 1.0, 2.0, 4.0)
TEACHER = 5000
ENCODED, DECODED, TAU = 1024, 256, 4.0


def main() -> None:
    parser = make_parser(__doc__, repetitions=15)
    parser.add_argument("logits", help="an .npz file with `teacher`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with np.load(options.logits, allow_pickle=False) as arrays:
        logits = torch.from_numpy(arrays["teacher"]).float()
        head = torch.from_numpy(arrays["head"]).float() if "head" in arrays else None
    specs = CODECS + [f"lowrank:step={step}" for step in STEPS]
    codecs = {spec: fitted(open_codec(spec, classes=logits.shape[1]), logits, head) for spec in specs}
    part = logits[:ENCODED]
    encoding = interleave({spec: encoder(codec, part) for spec, codec in codecs.items()}, options.repetitions)
    decoding = interleave(decoders(codecs, part[:DECODED]), options.repetitions)
    cases, lines = {}, {}
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
        middle, ratio = np.median(rate), np.median(decoding[spec][:, 0] / least)
        lines[spec] = (
            f"encodes {middle:8.0f} views/s ({middle / TEACHER:.1f} x a teacher of {TEACHER}), "
            f"decodes {DECODED} in {np.median(milliseconds):5.2f} ms ({ratio:.2f} x the least)"
        )
    settings = {"classes": logits.shape[1], "repetitions": options.repetitions}
    report({"benchmark": "codecs", **settings, "codecs": cases}, lines, as_json=options.json)


def fitted(codec: Codec, logits: torch.Tensor, head: torch.Tensor | None) -> Codec:
    return codec.fit(logits, head) if isinstance(codec, LowRank) else codec.fit(logits)


def encoder(codec: Codec, logits: torch.Tensor) -> Callable[[int], object]:
    return lambda _: codec.encode(logits)


def decoders(codecs: dict[str, Codec], logits: torch.Tensor) -> dict[str, Callable[[int], object]]:
    variants: dict[str, Callable[[int], object]] = {"softmax": lambda _: torch.softmax(logits / TAU, 1)}
    for spec, codec in codecs.items():
        records = codec.encode(logits)
        variants[spec] = lambda _, codec=codec, records=records: codec.decode(records).probs(TAU)  # type: ignore[misc]
        if isinstance(codec, LowRank) and codec.fitted is not None:
            integers, basis = torch.randn(len(logits), len(codec.fitted.basis)), codec.fitted.basis
            variants[f"{spec} product"] = lambda _, a=integers, b=basis: torch.softmax((a @ b) / TAU, 1)  # type: ignore[misc]
    return variants


if __name__ == "__main__":
    main()
