"""What a codec costs: bytes per view against the error of the gradient that a student gets from
decoded records.

Everything is measured on real logits of your teacher, before a long dump: codecs that need a fit
are fitted on the views of one half of the samples, and all are measured on those of the other half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from kdcache.cache import Cache, open_cache, stored_bytes
from kdcache.codec_error.calibration import BATCH, TAUS, Fitted, fit_codec
from kdcache.codec_error.gradients import (
    Difference,
    TeacherLoss,
    decoded_batches,
    gradient_error,
    gradients,
    whole_batches,
)
from kdcache.codec_error.samples import Pairs, pairs_from_cache, pairs_from_npz, pairs_from_teacher
from kdcache.codecs import Codec, RowCodec, open_codec
from kdcache.errors import KdcacheError, UsageError
from kdcache.losses import dist_terms, kl_loss
from kdcache.models.first_batch import logits_fault
from kdcache.models.model import open_model
from kdcache.models.vision_model import head_weight
from kdcache.runtime.console import progress, say
from kdcache.runtime.device import ComputeConfig
from kdcache.shapes import Logits, Records, Scalar
from kdcache.soft_targets import SoftTargets
from kdcache.verify.logits import require_teacher

__all__ = [
    "TERMS",
    "CodecErrorConfig",
    "TeacherLoss",
    "codec_costs",
    "decoded_batches",
    "default_ladder",
    "fitted_gradients",
    "gradient_error",
    "measure_codec_error",
]

TERMS = ("inter", "intra", "both", "kl")
"""DIST's two terms, DIST with beta = gamma = 2, and KL."""
_WEIGHT = 2.0
_VIEWS = 4096
_FULL = [f"full:dtype={dtype}" for dtype in ("float16", "bfloat16", "uint8", "uint4")]
_STEPS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
_KEPT = (2, 5, 10, 16, 50, 100, 200)


@dataclass(frozen=True, kw_only=True)
class CodecErrorConfig:
    """What `codec-error` does. The logits come from `logits`, or else from `teacher`, `data` and
    `recipe`."""

    logits: str | None = None
    """An .npz file of logits, or the folder of a `full` cache."""
    teacher: str | None = None
    """Spec of the teacher, with its weights. Beside a cache it is that of the cache, of which only
    the last layer's weights are looked at, from which a basis of few views gains."""
    data: str | None = None
    """Spec of the source."""
    recipe: str | None = None
    """A shipped recipe's name, or a TOML file."""
    student: str | None = None
    """Spec of a proxy student, with its weights."""
    views: int | None = None
    """About how many views to run, or to read of a cache; by default 4,096. An .npz file is
    measured whole."""
    codec: tuple[str, ...] = ()
    """Specs of the codecs; by default a ladder over all of them."""
    tau: tuple[float, ...] = (1.0, 4.0)
    batch_size: tuple[int, ...] = (256,)
    """Rows of a batch of the loss; the smallest is also that of the models."""
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        for name, values in (("views", [self.views]), ("batch_size", self.batch_size)):
            if wrong := [value for value in values if value is not None and value < 2]:
                raise UsageError(f"{name} is {wrong[0]}; it must be at least 2")
        if wrong_tau := [tau for tau in self.tau if not 0 < tau < float("inf")]:
            raise UsageError(f"tau is {wrong_tau[0]}; it must be above 0")
        if self.logits is not None and (
            self.recipe or (self.teacher and Path(self.logits).suffix == ".npz")
        ):
            raise UsageError(
                "give either logits (an .npz file or a cache) or a teacher with data and recipe,"
                " not both"
            )
        if self.logits is None and not (self.teacher and self.data and self.recipe):
            raise UsageError(
                "nothing to measure: give an .npz file of logits, a full cache, or --teacher,"
                " --data and --recipe"
            )


def measure_codec_error(config: CodecErrorConfig) -> dict[str, Any]:
    """Return what each codec costs on the logits that `config` names.

    Returns:
        What `codec_costs` returns, and `input`, `proxy` (what the student's logits are), and the
        numbers of `classes`, of views that codecs were `fitted_on` and `measured_on`.

    Raises:
        KdcacheError: logits that cannot be had or measured, or a codec that is unknown or cannot
            hold them.
    """
    pairs = _open_pairs(config)
    if (fault := logits_fault(pairs.teacher)) is not None:
        say(f"note: {config.logits or config.teacher} {fault}")
    pairs.require_gradient()
    fitting, measured = pairs.halves()
    taus = list(dict.fromkeys(config.tau))
    sizes = list(dict.fromkeys(config.batch_size))
    costs = codec_costs(fitting, measured, config.codec, taus=taus, batch_sizes=sizes)
    return {
        "input": config.logits or config.teacher,
        "proxy": pairs.proxy,
        "classes": pairs.teacher.shape[1],
        "fitted_on": len(fitting.teacher),
        "measured_on": len(measured.teacher),
        **costs,
    }


def codec_costs(
    fitting: Pairs,
    measured: Pairs,
    codecs: Sequence[str] = (),
    *,
    taus: Sequence[float],
    batch_sizes: Sequence[int],
) -> dict[str, Any]:
    """Return what each codec costs on the logits of `measured`, fitted to `fitting` where it needs
    a fit.

    Returns:
        `taus`, `batch_sizes`, `failed` (by spec, why a codec cannot be fitted or hold these logits)
        and `codecs`, a list of `codec` (its spec), `bytes` per view as stored, `record_bytes`,
        `worst` (the largest error of `both`), whether it is on the `front` (no other one takes as
        few bytes at as small a `worst`), and `gradients`: a list of `tau`, `batch_size`, and for
        each of `TERMS` its `error` and `cosine`.

    Raises:
        UsageError: fewer rows than a batch.
        KdcacheError: an unknown codec, or none that can hold these logits.
    """
    classes = fitting.teacher.shape[1]
    opened = {spec: open_codec(spec, classes=classes) for spec in codecs or default_ladder(classes)}
    whole_batches(len(measured.teacher), max(batch_sizes))  # before the fits, which take longer
    stored, failed = _encoded(opened, fitting, measured)
    differences = _differences(measured, stored, taus, batch_sizes)
    costs = [
        _cost(spec, codec, records, differences[spec]) for spec, (codec, records) in stored.items()
    ]
    points = [(cost["bytes"], cost["worst"]) for cost in costs]
    costs = [{**cost, "front": front} for cost, front in zip(costs, _on_front(points), strict=True)]
    return {"taus": list(taus), "batch_sizes": list(batch_sizes), "codecs": costs, "failed": failed}


def _encoded(
    opened: Mapping[str, RowCodec], fitting: Pairs, measured: Pairs
) -> tuple[dict[str, tuple[Codec, Records]], dict[str, str]]:
    """Return the fitted codecs with their records, and of those that fail, why; if all do, the
    first one's error is raised."""
    stored: dict[str, tuple[Codec, Records]] = {}
    failed: dict[str, KdcacheError] = {}
    for spec, codec in opened.items():
        try:
            fitted = fit_codec(codec, fitting).codec
            stored[spec] = fitted, fitted.encode(measured.teacher)
        except KdcacheError as error:
            failed[spec] = error
    if not stored:
        raise next(iter(failed.values()))
    return stored, {spec: str(error) for spec, error in failed.items()}


def fitted_gradients(fitted: Fitted) -> list[dict[str, Any]]:
    """Return `gradients` as `codec_costs` does, of a codec on samples its fit has not seen; none if
    there is no gradient."""
    pairs = fitted.held_out
    spec = fitted.codec.name
    if not pairs.differ:
        return []
    stored = {spec: (fitted.trial, fitted.trial.encode(pairs.teacher))}
    differences = _differences(pairs, stored, TAUS, [min(BATCH, len(pairs.teacher))])[spec]
    return _told(differences)


def default_ladder(classes: int) -> list[str]:
    """Return the specs that are measured if none are given: every codec, at several settings."""
    kept = [f"topk:k={k}" for k in _KEPT if k <= classes // 2]
    return [*_FULL, *(f"lowrank:step={step:g}" for step in _STEPS), *kept]


def _open_pairs(config: CodecErrorConfig) -> Pairs:
    running: dict[str, Any] = {"batch_size": min(config.batch_size), "compute": config.compute}
    running |= {"views": config.views or _VIEWS, "student": config.student}
    if config.logits is None:
        assert config.teacher and config.data and config.recipe
        return pairs_from_teacher(config.teacher, data=config.data, recipe=config.recipe, **running)
    if Path(config.logits).suffix != ".npz":
        pairs = pairs_from_cache(config.logits, data=config.data, **running)
        if not config.teacher:
            return pairs
        return replace(pairs, head=_head(config.teacher, open_cache(config.logits)))
    if config.student or config.data:
        raise UsageError(
            f"{config.logits} holds no images for a student to look at; put its logits in as"
            " `student`"
        )
    if config.views:
        raise UsageError(
            f"views is {config.views}, but an .npz file is measured whole; leave views out"
        )
    return pairs_from_npz(config.logits)


def _head(teacher: str, cache: Cache) -> Tensor | None:
    """Return the weights of the last layer of the teacher that `cache` was made with."""
    classes = cache.manifest.classes
    model = open_model(
        teacher,
        classes=classes,
        recipe=cache.recipe,
        trained=True,
        task=cache.manifest.task,
    )
    require_teacher(cache, model)
    head = head_weight(model, classes)
    if head is None:
        say(
            f"note: teacher {teacher} has no linear last layer of {classes} classes; codecs are"
            " fitted without"
        )
    return head


def _cost(
    spec: str,
    codec: Codec,
    records: Records,
    differences: Mapping[tuple[float, int], Mapping[str, Difference]],
) -> dict[str, Any]:
    return {
        "codec": spec,
        "bytes": stored_bytes(codec, records),
        "record_bytes": codec.record_dtype.itemsize,
        "worst": max(terms["both"].error for terms in differences.values()),
        "gradients": _told(differences),
    }


def _told(
    differences: Mapping[tuple[float, int], Mapping[str, Difference]],
) -> list[dict[str, Any]]:
    return [
        {
            "tau": tau,
            "batch_size": size,
            **{name: {"error": term.error, "cosine": term.cosine} for name, term in terms.items()},
        }
        for (tau, size), terms in differences.items()
    ]


def _differences(
    measured: Pairs,
    stored: Mapping[str, tuple[Codec, Records]],
    taus: Sequence[float],
    batch_sizes: Sequence[int],
) -> dict[str, dict[tuple[float, int], dict[str, Difference]]]:
    """Return the differences of each codec's gradients, by spec, (tau, batch size) and term."""
    cases: list[tuple[float, int]] = []
    batches: list[tuple[int, slice]] = []
    for size in batch_sizes:
        cases += [(tau, size) for tau in taus]
        batches += [(size, part) for part in whole_batches(len(measured.teacher), size)]
    sums = {
        spec: {case: {term: Difference() for term in TERMS} for case in cases} for spec in stored
    }
    with progress("measure", len(batches), "batches") as bar:
        for size, part in batches:
            student = measured.student[part]
            exact = {tau: _term_gradients(student, measured.teacher[part], tau) for tau in taus}
            for spec, (codec, records) in stored.items():
                rows = codec.decode(records[part])
                for tau in taus:
                    for term, gradient in _term_gradients(student, rows, tau).items():
                        sums[spec][tau, size][term].add(exact[tau][term], gradient)
            bar.advance(1)
    return sums


def _term_gradients(
    student: Logits, teacher: Logits | SoftTargets, tau: float
) -> dict[str, Tensor]:
    inter, intra, kl = gradients(student, teacher, partial(_terms, tau=tau))
    return {"inter": inter, "intra": intra, "both": _WEIGHT * (inter + intra), "kl": kl}


def _terms(student: Logits, teacher: Logits | SoftTargets, *, tau: float) -> list[Scalar]:
    return [*dist_terms(student, teacher, tau=tau), kl_loss(student, teacher, tau=tau)]


def _on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return for each (bytes, error) whether no other point is as good in both and better in
    one."""
    return [not any(a <= c and b <= d and (a, b) != (c, d) for a, b in points) for c, d in points]
