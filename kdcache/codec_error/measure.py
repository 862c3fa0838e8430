"""What a codec costs: bytes per view against the error of the gradient that a student gets from
decoded records.

Everything is measured on real logits of your teacher, before a long dump: codecs that need a fit
are fitted on some of the samples, and all are measured on the others. Of maps and boxes the record
is that of a whole view, and the gradient that of all of its positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from kdcache.cache import Cache, open_cache, stored_bytes
from kdcache.codec_error.cache_sample import sample_from_cache
from kdcache.codec_error.calibration import TAUS, Fitted, fit_codec
from kdcache.codec_error.config import CodecErrorConfig
from kdcache.codec_error.gradients import Difference, Teacher, gradients, whole_batches
from kdcache.codec_error.ladder import default_ladder
from kdcache.codec_error.measured_logits import require_few_rows
from kdcache.codec_error.measured_views import Compared, MeasuredViews
from kdcache.codec_error.npz_pairs import pairs_from_npz
from kdcache.codec_error.sample import Sample
from kdcache.codec_error.teacher_sample import sample_from_teacher
from kdcache.codecs import Codec, RowCodec, open_codec, require_fitting, with_layout
from kdcache.errors import KdcacheError
from kdcache.losses import dist_terms, kl_loss
from kdcache.models.first_batch import logits_fault
from kdcache.models.model import open_model
from kdcache.models.vision_model import head_weight
from kdcache.runtime.console import progress, say
from kdcache.runtime.device import Compute
from kdcache.shapes import Activation, LogitRows, Records, Scalar
from kdcache.verify.logits import require_teacher

__all__ = [
    "TERMS",
    "CodecErrorConfig",
    "codec_costs",
    "fitted_gradients",
    "measure_codec_error",
]

TERMS = ("inter", "intra", "both", "kl")
"""DIST's two terms, DIST with beta = gamma = 2, and KL."""
_WEIGHT = 2.0
Case = tuple[float, int]
"""A temperature and a batch size."""
Terms = dict[str, Difference]
"""By each of `TERMS`, how far a codec's gradient is from the exact one."""


def measure_codec_error(config: CodecErrorConfig) -> dict[str, Any]:
    """Return what each codec costs on the logits that `config` names.

    Returns:
        What `codec_costs` returns, and `input`, `proxy` (what the student's logits are), the
        number of `classes`, the `sites` of a view's logits (empty where it has one row), the number
        of rows that codecs were `fitted_on`, and of views that they were `measured_on`.

    Raises:
        KdcacheError: logits that cannot be had or measured, or a codec that is unknown or cannot
            hold them.
    """
    sample = _open_sample(config)
    fault = logits_fault(sample.teacher)
    if fault is not None:
        say(f"note: {config.logits or config.teacher} {fault}")
    sample.require_gradient()
    fitting, measured = sample.to(Compute(config.compute).device).halves()
    taus = list(dict.fromkeys(config.tau))
    costs = codec_costs(fitting, measured, config.codec, taus=taus, batch_sizes=config.loss_sizes)
    layout = measured.views.layout
    return {
        "input": config.logits or config.teacher,
        "proxy": sample.proxy,
        "classes": sample.teacher.shape[1] - int(layout.has_background),
        "sites": list(layout.sites),
        "fitted_on": len(fitting.teacher),
        "measured_on": len(measured.views),
        **costs,
    }


def codec_costs(
    fitting: Sample,
    measured: Sample,
    codecs: Sequence[str] = (),
    *,
    taus: Sequence[float],
    batch_sizes: Sequence[int],
) -> dict[str, Any]:
    """Return what each codec costs on the views of `measured`, fitted to `fitting` where it needs a
    fit.

    Returns:
        `taus`, `batch_sizes`, `failed` (by spec, why a codec cannot be fitted or hold these logits)
        and `codecs`, a list of `codec` (its spec), `bytes` per view as stored, `record_bytes`,
        `worst` (the largest error of `both`), whether it is on the `front` (no other one takes as
        few bytes at as small a `worst`; of equal ones the first), and `gradients`: a list of `tau`,
        `batch_size`, and for each of `TERMS` its `error` and `cosine`. A batch has at most as many
        views as are measured, where these have several positions.

    Raises:
        UsageError: fewer rows than a batch.
        KdcacheError: an unknown codec, or none that can hold these logits.
    """
    classes = fitting.teacher.shape[1]
    views = measured.views
    sizes = views.batch_sizes(batch_sizes)
    whole_batches(len(views), max(sizes))  # before the fits, which take longer
    specs = codecs or default_ladder(classes, views.layout)
    row_codecs = {spec: open_codec(spec, classes=classes) for spec in specs}
    encodings, reasons = _encoded(row_codecs, fitting, views)
    differences = _differences(views, encodings, taus, sizes)
    costs = []
    for spec, (codec, records) in encodings.items():
        costs.append(_cost(spec, codec, records, differences[spec]))
    for place, cost in enumerate(costs):
        cost["front"] = _is_on_front(place, costs)
    return {"taus": list(taus), "batch_sizes": sizes, "codecs": costs, "failed": reasons}


def _encoded(
    codecs: Mapping[str, RowCodec], fitting: Sample, views: MeasuredViews
) -> tuple[dict[str, tuple[Codec, Records]], dict[str, str]]:
    """Return the fitted codecs of views with their records, and of those that fail, why; if all do,
    the first one's error is raised."""
    encodings: dict[str, tuple[Codec, Records]] = {}
    reasons: dict[str, str] = {}
    first_error: KdcacheError | None = None
    for spec, codec in codecs.items():
        try:
            require_fitting(codec, views.layout)
            fitted = fit_codec(codec, fitting).codec
            encodings[spec] = with_layout(fitted, views.layout), views.records(fitted)
        except KdcacheError as error:
            reasons[spec] = str(error)
            first_error = first_error or error
    if first_error and not encodings:
        raise first_error
    return encodings, reasons


def fitted_gradients(fitted: Fitted) -> list[dict[str, Any]]:
    """Return `gradients` as `codec_costs` does, of a codec on samples its fit has not seen; none if
    there is no gradient."""
    views = fitted.views
    if not views.differ:
        return []
    spec = fitted.codec.name
    codec = with_layout(fitted.trial, views.layout)
    encodings = {spec: (codec, views.records(fitted.trial))}
    differences = _differences(views, encodings, TAUS, [views.usual_batch])
    return _gradient_rows(differences[spec])


def _open_sample(config: CodecErrorConfig) -> Sample:
    """Return the logits that `config` names."""
    if config.logits is not None and config.is_file:
        return pairs_from_npz(config.logits)
    settings: dict[str, Any] = {
        "student": config.student,
        "data": config.data,
        "views": config.views,
        "codecs": config.codec,
        "batch_size": config.model_size,
        "compute": config.compute,
    }
    if config.logits is None:
        assert config.teacher and config.data and config.recipe
        return sample_from_teacher(config.teacher, recipe=config.recipe, **settings)
    if not config.teacher:
        return sample_from_cache(config.logits, **settings)
    cache = open_cache(config.logits)
    require_few_rows(cache)
    sample = sample_from_cache(config.logits, **settings)
    return replace(sample, head=_head(config.teacher, cache))


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
    views: MeasuredViews,
    encodings: Mapping[str, tuple[Codec, Records]],
    taus: Sequence[float],
    batch_sizes: Sequence[int],
) -> dict[str, dict[Case, Terms]]:
    """Return the differences of each codec's gradients, by spec, case and term."""
    batches: list[tuple[int, slice]] = []
    for size in batch_sizes:
        batches += [(size, part) for part in whole_batches(len(views), size)]
    differences = {spec: _no_differences(taus, batch_sizes) for spec in encodings}
    terms_of = partial(_term_gradients, activation=views.layout.activation)
    num_gradients = len(batches) * len(taus) * len(encodings)
    with progress("measure", num_gradients, "gradients") as bar:
        for size, part in batches:
            for tau in taus:
                exact = [terms_of(rows, tau=tau) for rows in views.compared(part)]
                for spec, (codec, records) in encodings.items():
                    decoded = codec.decode(records[part], views.logits.device)
                    compared = views.compared(part, decoded)
                    for of_exact, rows in zip(exact, compared, strict=True):
                        _add(differences[spec][tau, size], of_exact, terms_of(rows, tau=tau))
                    bar.advance(1)
    return differences


def _no_differences(taus: Sequence[float], batch_sizes: Sequence[int]) -> dict[Case, Terms]:
    """Return the differences of a codec of which no batch is counted yet."""
    differences: dict[Case, Terms] = {}
    for size in batch_sizes:
        for tau in taus:
            differences[tau, size] = {name: Difference() for name in TERMS}
    return differences


def _add(terms: Terms, exact: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """Count the gradients of what a loss compares together."""
    for name, difference in terms.items():
        difference.add(exact[name], other[name])


def _term_gradients(rows: Compared, *, tau: float, activation: Activation) -> dict[str, Tensor]:
    """Return the gradient of each of `TERMS`."""
    losses = partial(_terms, tau=tau, activation=activation)
    terms = gradients(rows.student, rows.teacher, losses)
    inter, intra, kl = [rows.weight * term for term in terms]
    return {"inter": inter, "intra": intra, "both": _WEIGHT * (inter + intra), "kl": kl}


def _terms(
    student: LogitRows, teacher: Teacher, *, tau: float, activation: Activation
) -> list[Scalar]:
    kl = kl_loss(student, teacher, tau=tau, activation=activation)
    return [*dist_terms(student, teacher, tau=tau, activation=activation), kl]


def _is_on_front(place: int, costs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether no other codec is as good in bytes and error and better in one, nor an earlier
    one as good in both."""
    size, worst = costs[place]["bytes"], costs[place]["worst"]
    for other_place, other in enumerate(costs):
        is_as_good = other["bytes"] <= size and other["worst"] <= worst
        is_better = other["bytes"] < size or other["worst"] < worst
        if is_as_good and (is_better or other_place < place):
            return False
    return True
