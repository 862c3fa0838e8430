"""What a run replays: the views that its caches were made from, under their seeds, or those of a recipe without a cache."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.cache import Cache, open_cache
from kdcache.codecs import Codec, Tail, codec_spec
from kdcache.config import parse_seeds
from kdcache.drift import check_views
from kdcache.errors import MismatchError, UsageError
from kdcache.gradients import is_far
from kdcache.losses import Dist, Loss
from kdcache.shapes import Rows
from kdcache.sources import Source, open_source
from kdcache.spec import build, parse_spec
from kdcache.tracking import say
from kdcache.train_config import TrainConfig
from kdcache.views import Recipe, load_recipe, row_order

DRIFT_VIEWS = 8


@dataclass(frozen=True, kw_only=True)
class CacheUse:
    """One of a run's caches, and how its teacher counts."""

    cache: Cache
    weight: float = 1.0
    classes: Tensor | None = None
    """The student's class of each of the teacher's classes, int64; -1 for none. None where the classes are the same."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The views of a run."""

    source: Source
    recipe: Recipe
    caches: list[CacheUse]
    seeds: list[int]
    """That epochs take in turn."""
    samples: Rows | None
    """Rows to train on, where these are not all."""

    @property
    def order(self) -> Rows:
        """Row r is sample `order[r]` of the source."""
        return self.caches[0].cache.order if self.caches else row_order(len(self.source), 0)

    def rows(self, left_out: Rows) -> Rows:
        """Return the rows to train on, without those of `left_out`."""
        rows = np.arange(len(self.source)) if self.samples is None else self.samples
        return np.setdiff1d(rows, left_out)


def open_replay(config: TrainConfig, loss: Loss) -> Replay:
    """Return the views of a run, after checking that its caches are of the same ones, and some of them against the source.

    Raises:
        UsageError: records that do not hold what the loss needs.
        MismatchError: caches of different views, or of other data than the run's.
        DriftError: views that would not be those that the teacher saw.
        KdcacheError: anything that cannot be opened.
    """
    opened = [_open_cache(text) for text in config.caches]
    for cache, _ in opened:
        check_records(cache, loss, config.loss, config.tail)
    source = open_source(config.data)
    caches = [_use(cache, options, source) for cache, options in opened]
    if not caches:
        seeds = parse_seeds(config.seeds) if config.seeds else list(range(config.epochs * config.repeats))
        replay = Replay(source=source, recipe=load_recipe(str(config.recipe)), caches=[], seeds=seeds, samples=None)
    else:
        first, *others = (use.cache for use in caches)
        for other in others:
            _require_same_views(first, other)
        seeds = _cached_seeds(config, [use.cache for use in caches])
        check_views(first, source, seeds, views=DRIFT_VIEWS)
        recipe = Recipe.from_dict(first.manifest.recipe)
        replay = Replay(source=source, recipe=recipe, caches=caches, seeds=seeds, samples=None)
    if len(replay.seeds) < config.repeats:
        raise UsageError(f"repeats is {config.repeats}, and there are {len(replay.seeds)} seeds; it needs as many")
    if config.samples is None:
        return replay
    rows = np.flatnonzero(np.isin(replay.order, _samples(config.samples, source)))
    return Replay(source=source, recipe=replay.recipe, caches=caches, seeds=replay.seeds, samples=rows)


@dataclass(frozen=True, kw_only=True)
class _CacheOptions:
    weight: float = 1.0
    classes: str | None = None


def _open_cache(text: str) -> tuple[Cache, _CacheOptions]:
    """Return the cache of `PATH[,weight=X][,classes=FILE.csv]`, and its options."""
    spec = parse_spec(f"cache:{text}")
    options = build(_CacheOptions, spec.options, f"cache {text!r}")
    if not 0 < options.weight < float("inf"):
        raise UsageError(f"cache {text!r}: weight is {options.weight}; it must be above 0")
    return open_cache(str(spec.arg)), options


def _use(cache: Cache, options: _CacheOptions, source: Source) -> CacheUse:
    """Return how a cache is used, after checking that it was made from the source."""
    if source.fingerprint != cache.manifest.source["fingerprint"]:
        raise MismatchError(
            f"data {source.spec} ({len(source)} samples) is not what cache {cache.folder} was made from "
            f"({cache.manifest.source['spec']}, {cache.manifest.rows} samples): samples were added, removed, renamed, "
            "reordered or relabelled; give the same data, or dump again"
        )
    if options.classes is not None:
        classes = read_class_map(options.classes, source, cache.manifest.classes)
        return CacheUse(cache=cache, weight=options.weight, classes=classes)
    if cache.manifest.classes != source.classes:
        raise MismatchError(
            f"the teacher of cache {cache.folder} has {cache.manifest.classes} classes, data {source.spec} {source.classes}; "
            "say which are which: --cache PATH,classes=FILE.csv"
        )
    return CacheUse(cache=cache, weight=options.weight)


def read_class_map(path: str, source: Source, teacher_classes: int) -> Tensor:
    """Return the student's class of each of the teacher's classes, int64 `[teacher classes]`, -1 for none.

    The file has lines `student class,teacher class`: numbers from 0, the student's also by name. A first line that is neither
    is taken for a heading. Several classes of the teacher may belong to one of the student, not the other way round.

    Raises:
        UsageError: no such file, a line of another form, a class that does not exist or belongs to two.
    """
    try:
        with Path(path).open(newline="") as file:
            lines = [(number, line) for number, line in enumerate(csv.reader(file), 1) if any(field.strip() for field in line)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"class map {path} cannot be read: {error}") from error
    names = {name: index for index, name in enumerate(getattr(source, "class_names", None) or ())}
    classes = torch.full((teacher_classes,), -1)
    for number, line in lines:
        fields = [field.strip() for field in line]
        if number == lines[0][0] and len(fields) == 2 and not fields[1].isdecimal():
            continue
        if len(fields) != 2 or not fields[1].isdecimal() or not (fields[0] in names or fields[0].isdecimal()):
            raise UsageError(f"class map {path}, line {number}: {','.join(line)!r} is not STUDENT CLASS,TEACHER CLASS")
        student, teacher = names.get(fields[0], -1) if fields[0] in names else int(fields[0]), int(fields[1])
        if student >= source.classes or teacher >= teacher_classes:
            raise UsageError(
                f"class map {path}, line {number}: {','.join(line)!r} is out of range; the student has {source.classes} "
                f"classes, the teacher {teacher_classes}, counted from 0"
            )
        if classes[teacher] >= 0:
            raise UsageError(
                f"class map {path}, line {number}: class {teacher} of the teacher has a class of the student already"
            )
        classes[teacher] = student
    if not (classes >= 0).any():
        raise UsageError(f"class map {path} names no class")
    return classes


def _require_same_views(one: Cache, other: Cache) -> None:
    parts = {
        "recipe": [cache.manifest.recipe["fingerprint"][:12] for cache in (one, other)],
        "order seed": [cache.manifest.order_seed for cache in (one, other)],
        "number of rows": [cache.manifest.rows for cache in (one, other)],
    }
    for name, (mine, its) in parts.items():
        if mine != its:
            raise MismatchError(
                f"caches {one.folder} and {other.folder} are of different views: {name} {mine} there, {its} here; "
                "dump both with the same recipe and order_seed"
            )


def _cached_seeds(config: TrainConfig, caches: Sequence[Cache]) -> list[int]:
    """Return the seeds of the epochs: those asked for, or those that every cache holds."""
    is_partial = config.on_miss != "error"
    held = [set(cache.seeds() if is_partial else cache.complete_seeds()) for cache in caches]
    seeds = parse_seeds(config.seeds) if config.seeds else sorted(set.intersection(*held))
    if not seeds:
        which = caches[0].folder if len(caches) == 1 else ", ".join(str(cache.folder) for cache in caches)
        raise MismatchError(f"cache {which} has no complete seed{' in common' * (len(caches) > 1)} yet; run dump-teacher again")
    for seed in seeds if not is_partial else ():
        for cache in caches:
            cache.commits(seed)  # what is missing is told before the first epoch, not when its seed's turn comes
    return seeds


def _samples(text: str, source: Source) -> Rows:
    """Return the numbers of the samples that `A:B` or a file of keys names, int64."""
    first, colon, last = text.partition(":")
    if colon and first.isdecimal() and last.isdecimal():
        if not int(first) < int(last) <= len(source):
            raise UsageError(f"samples {text!r} are none, or past the last of {len(source)}; 0:100 means the first hundred")
        return np.arange(int(first), int(last))
    try:
        wanted = [line.strip() for line in Path(text).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"samples {text!r} are neither A:B nor a text file with a key on each line") from error
    known = {source.key(index): index for index in range(len(source))}
    for key in wanted:
        if key not in known:
            raise UsageError(f"samples {text}: source {source.spec} has no sample {key!r}; keys are such as {source.key(0)!r}")
    if not wanted:
        raise UsageError(f"samples {text} names none")
    return np.array([known[key] for key in wanted])


def check_records(cache: Cache, loss: Loss, spec: str, tail: Tail) -> None:
    """Check that the records of `cache` hold what the loss of this spec needs, and a tail if one is to be spread.

    Raises:
        UsageError: they do not.
    """
    codec, name = cache.codec, f"{codec_spec(cache.codec)} of cache {cache.folder}"
    if loss.needs_all and not codec.keeps_all:
        raise UsageError(
            f"loss {spec} needs the label's logit, which {name} keeps only among the largest; "
            "use a cache with codec full or lowrank, or loss dist or kl"
        )
    if tail != "uniform" and codec.keeps_all:
        raise UsageError(f"tail {tail!r}: {name} keeps every class, there is no tail to spread; leave it out")
    if isinstance(loss, Dist) and loss.gamma > 0:
        _note_error(cache, loss.tau, name)


def _note_error(cache: Cache, tau: float, name: str) -> None:
    """Say how far the records turn DIST's gradient, at the nearest temperature that was measured, if it is far or not known."""
    codec, manifest = cache.codec, cache.manifest
    dropped = "gamma's term weighs the classes that it drops like the others; codec lowrank keeps them all"
    way_out = "a smaller step, or codec full, is nearer" if codec.keeps_all else dropped
    measured, (origin, before) = manifest.gradient_error, manifest.origin_error or ("", {})
    turned = _far_text(measured or before, tau, codec)
    if measured:
        told = turned and f"{name} turns {turned}, as measured before the dump"
    elif turned:
        told = f"{name} was recoded from {origin}, which turns {turned}: it turns it further, how far was not measured"
    else:
        told = "" if codec.keeps_all else f"how far {name} turns the gradient of DIST was not measured"
    if told:
        say(f"note: {told}; {way_out}")


def _far_text(errors: Mapping[float, float], tau: float, codec: Codec) -> str:
    """Return what is said of the error at the temperature nearest to `tau`; nothing where it is not far."""
    nearest = min(errors, key=lambda at: abs(at - tau), default=None)
    if nearest is None or not is_far(errors[nearest], codec):
        return ""
    return f"the gradient of DIST at tau {nearest:g} by {100 * errors[nearest]:.0f} % of its norm"
