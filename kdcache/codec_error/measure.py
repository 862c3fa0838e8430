"""What a codec costs: bytes per view against the error of the gradient that a student gets from
decoded records.

Everything is measured on real logits of your teacher, before a long dump: codecs that need a fit
are fitted on the views of one half of the samples, and all are measured on those of the other half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from kdcache.cache import Cache, open_cache, stored_bytes
from kdcache.codec_error.cache_pairs import pairs_from_cache
from kdcache.codec_error.calibration import BATCH, TAUS, Fitted, fit_codec
from kdcache.codec_error.config import CodecErrorConfig
from kdcache.codec_error.gradients import (
    Difference,
    TeacherLoss,
    decoded_batches,
    gradient_error,
    gradients,
    whole_batches,
)
from kdcache.codec_error.npz_pairs import pairs_from_npz
from kdcache.codec_error.pairs import Pairs
from kdcache.codec_error.teacher_pairs import pairs_from_teacher
from kdcache.codecs import Codec, GridCodec, RowCodec, open_codec
from kdcache.errors import KdcacheError
from kdcache.losses import dist_terms, kl_loss
from kdcache.models.first_batch import logits_fault
from kdcache.models.model import open_model
from kdcache.models.vision_model import head_weight
from kdcache.runtime.console import progress, say
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
_DTYPES = ("float16", "bfloat16", "uint8", "uint4")
_STEPS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0)
_KS = (2, 5, 10, 16, 50, 100, 200)
Case = tuple[float, int]
"""A temperature and a batch size."""
Terms = dict[str, Difference]
"""By each of `TERMS`, how far a codec's gradient is from the exact one."""


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
    fault = logits_fault(pairs.teacher)
    if fault is not None:
        say(f"note: {config.logits or config.teacher} {fault}")
    pairs.require_gradient()
    fitting, measured = pairs.halves()
    taus = list(dict.fromkeys(config.tau))
    costs = codec_costs(fitting, measured, config.codec, taus=taus, batch_sizes=config.loss_sizes)
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
    specs = codecs or default_ladder(classes)
    row_codecs = {spec: open_codec(spec, classes=classes) for spec in specs}
    whole_batches(len(measured.teacher), max(batch_sizes))  # before the fits, which take longer
    encodings, reasons = _encoded(row_codecs, fitting, measured)
    differences = _differences(measured, encodings, taus, batch_sizes)
    costs = []
    for spec, (codec, records) in encodings.items():
        costs.append(_cost(spec, codec, records, differences[spec]))
    for cost in costs:
        cost["front"] = _is_on_front(cost, costs)
    return {
        "taus": list(taus),
        "batch_sizes": list(batch_sizes),
        "codecs": costs,
        "failed": reasons,
    }


def _encoded(
    codecs: Mapping[str, RowCodec], fitting: Pairs, measured: Pairs
) -> tuple[dict[str, tuple[Codec, Records]], dict[str, str]]:
    """Return the fitted codecs with their records, and of those that fail, why; if all do, the
    first one's error is raised."""
    encodings: dict[str, tuple[Codec, Records]] = {}
    reasons: dict[str, str] = {}
    first_error: KdcacheError | None = None
    for spec, codec in codecs.items():
        try:
            fitted = fit_codec(codec, fitting).codec
            encodings[spec] = fitted, fitted.encode(measured.teacher)
        except KdcacheError as error:
            reasons[spec] = str(error)
            first_error = first_error or error
    if first_error and not encodings:
        raise first_error
    return encodings, reasons


def fitted_gradients(fitted: Fitted) -> list[dict[str, Any]]:
    """Return `gradients` as `codec_costs` does, of a codec on samples its fit has not seen; none if
    there is no gradient, or of a codec of whole maps, whose `Fitted.errors` tell."""
    pairs = fitted.held_out
    spec = fitted.codec.name
    is_whole = pairs.views is not None and isinstance(fitted.trial, GridCodec)
    if not pairs.differ or is_whole:
        return []
    encodings = {spec: (fitted.trial, fitted.trial.encode(pairs.teacher))}
    batch_size = min(BATCH, len(pairs.teacher))
    differences = _differences(pairs, encodings, TAUS, [batch_size])
    return _gradient_rows(differences[spec])


def default_ladder(classes: int) -> list[str]:
    """Return the specs that are measured if none are given: every codec, at several settings."""
    specs = [f"full:dtype={dtype}" for dtype in _DTYPES]
    specs += [f"lowrank:step={step:g}" for step in _STEPS]
    specs += [f"topk:k={k}" for k in _KS if k <= classes // 2]
    return specs


def _open_pairs(config: CodecErrorConfig) -> Pairs:
    """Return the logits that `config` names."""
    settings: dict[str, Any] = {
        "student": config.student,
        "data": config.data,
        "views": config.views or _VIEWS,
        "batch_size": config.model_size,
        "compute": config.compute,
    }
    if config.logits is None:
        assert config.teacher and config.data and config.recipe
        return pairs_from_teacher(config.teacher, recipe=config.recipe, **settings)
    if not config.is_file:
        pairs = pairs_from_cache(config.logits, **settings)
        if not config.teacher:
            return pairs
        return replace(pairs, head=_head(config.teacher, open_cache(config.logits)))
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
    differences: Mapping[Case, Terms],
) -> dict[str, Any]:
    """Return what a codec costs, but for whether it is on the front."""
    return {
        "codec": spec,
        "bytes": stored_bytes(codec, records),
        "record_bytes": codec.record_dtype.itemsize,
        "worst": max(terms["both"].error for terms in differences.values()),
        "gradients": _gradient_rows(differences),
    }


def _gradient_rows(differences: Mapping[Case, Terms]) -> list[dict[str, Any]]:
    """Return `gradients` of a codec, see `codec_costs`."""
    rows = []
    for (tau, size), terms in differences.items():
        row: dict[str, Any] = {"tau": tau, "batch_size": size}
        for name, difference in terms.items():
            row[name] = {"error": difference.error, "cosine": difference.cosine}
        rows.append(row)
    return rows


def _differences(
    measured: Pairs,
    encodings: Mapping[str, tuple[Codec, Records]],
    taus: Sequence[float],
    batch_sizes: Sequence[int],
) -> dict[str, dict[Case, Terms]]:
    """Return the differences of each codec's gradients, by spec, case and term."""
    batches: list[tuple[int, slice]] = []
    for size in batch_sizes:
        batches += [(size, part) for part in whole_batches(len(measured.teacher), size)]
    differences = {spec: _no_differences(taus, batch_sizes) for spec in encodings}
    with progress("measure", len(batches), "batches") as bar:
        for size, part in batches:
            student = measured.student[part]
            teacher = measured.teacher[part]
            exact = {tau: _term_gradients(student, teacher, tau) for tau in taus}
            for spec, (codec, records) in encodings.items():
                rows = codec.decode(records[part], student.device)
                for tau in taus:
                    terms = differences[spec][tau, size]
                    for name, gradient in _term_gradients(student, rows, tau).items():
                        terms[name].add(exact[tau][name], gradient)
            bar.advance(1)
    return differences


def _no_differences(taus: Sequence[float], batch_sizes: Sequence[int]) -> dict[Case, Terms]:
    """Return the differences of a codec of which no batch is counted yet."""
    differences: dict[Case, Terms] = {}
    for size in batch_sizes:
        for tau in taus:
            differences[tau, size] = {name: Difference() for name in TERMS}
    return differences


def _term_gradients(
    student: Logits, teacher: Logits | SoftTargets, tau: float
) -> dict[str, Tensor]:
    """Return the gradient of each of `TERMS`."""
    inter, intra, kl = gradients(student, teacher, partial(_terms, tau=tau))
    return {"inter": inter, "intra": intra, "both": _WEIGHT * (inter + intra), "kl": kl}


def _terms(student: Logits, teacher: Logits | SoftTargets, *, tau: float) -> list[Scalar]:
    return [*dist_terms(student, teacher, tau=tau), kl_loss(student, teacher, tau=tau)]


def _is_on_front(cost: Mapping[str, Any], costs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether no other codec is as good in bytes and error and better in one."""
    for other in costs:
        is_as_good = other["bytes"] <= cost["bytes"] and other["worst"] <= cost["worst"]
        is_equal = other["bytes"] == cost["bytes"] and other["worst"] == cost["worst"]
        if is_as_good and not is_equal:
            return False
    return True
