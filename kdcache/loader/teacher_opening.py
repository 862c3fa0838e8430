"""Opening the teacher of a run: a cache, several, a model in the loop, or none."""

from collections.abc import Sequence

from kdcache.cache import Cache
from kdcache.errors import MismatchError, UsageError
from kdcache.loader.config import LoaderConfig
from kdcache.loader.replay import CacheUse, Replay
from kdcache.loader.teachers import (
    AveragedTeacher,
    CachedTeacher,
    MappedTeacher,
    NoTeacher,
    OnlineTeacher,
    ResampledTeacher,
    Teacher,
)
from kdcache.losses import Need
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.models.weight_record import cached_as
from kdcache.positions import Layout, common_layout
from kdcache.runtime.console import say
from kdcache.runtime.device import Compute
from kdcache.shapes import Size, size_text
from kdcache.targets import task_of
from kdcache.verify.logits import require_teacher


def open_teacher(
    config: LoaderConfig,
    replay: Replay,
    needs: frozenset[Need],
    compute: Compute,
    *,
    sizes: Sequence[Size],
    layout: Layout | None = None,
) -> tuple[Teacher, list[Size]]:
    """Return where a run's soft targets come from, and the input sizes to render, the students'
    first.

    Args:
        config: of the run.
        replay: its views.
        needs: what its loss requires.
        compute: where and how models run.
        sizes: the input sizes of the students, each once.
        layout: of the student's logits; by default the teacher's.

    Raises:
        UsageError: records that do not hold what the loss needs.
        RecipeError: the student would see another draw of the views than the teacher.
        KdcacheError: a teacher that cannot be opened, or is not the one that the cache was made
            with.
    """
    uses = replay.caches
    cache_sizes = [use.cache.manifest.input_size for use in uses]
    replay.recipe.require_one_draw(*sizes, *cache_sizes)
    if "teacher" not in needs:
        return NoTeacher(uses, is_filled=config.on_miss == "teacher"), [*sizes]
    online = None
    rendered = [*sizes]
    if config.teacher:
        online, rendered = _online(config, replay, sizes, compute)
    if online is not None and not uses:
        return _lying_as(layout, online, online.layout), rendered
    is_combined = len(uses) > 1 or _has_own_classes(uses)
    if uses:
        _require_alone(uses[0].cache, is_combined=is_combined, has_online=online is not None)
    if "logits" in needs and is_combined:
        raise UsageError(
            "several teachers, or one of other classes, give probabilities, and this loss needs"
            " logits: use dist or kl, without standardize or activation=sigmoid"
        )
    if layout is None and uses:
        _require_same_layout([use.cache for use in uses])
    teachers = []
    weights = []
    for use in uses:
        teacher = _cached(config, replay, use, online, compute=compute, layout=layout)
        teachers.append(teacher)
        weights.append(use.weight)
    if len(teachers) == 1:
        return teachers[0], rendered
    return AveragedTeacher(teachers, weights), rendered


def _require_alone(cache: Cache, *, is_combined: bool, has_online: bool) -> None:
    """Raise a UsageError if logits are to be combined that cannot be, those of detectors."""
    layout = cache.manifest.layout
    if is_combined and not layout.is_of_softmaxes:
        raise UsageError(
            "several teachers, or one of other classes, are combined as softmaxes of one row a"
            " position, which the scores of detectors are not; take one teacher, of the classes of"
            " the data"
        )
    if has_online and layout.has_boxes:
        raise UsageError(
            f"cache {cache} holds a teacher's proposals, each view as many as it has, and a teacher"
            " in the loop cannot fill its gaps; leave teacher out, or the cache"
        )


def _has_own_classes(uses: Sequence[CacheUse]) -> bool:
    """Return whether a teacher has other classes than the student."""
    return any(use.classes is not None for use in uses)


def _require_same_layout(caches: Sequence[Cache]) -> None:
    """Raise a MismatchError if the logits of several caches do not lie alike, and there is no
    student whose maps theirs could be brought to."""
    try:
        common_layout([cache.manifest.layout for cache in caches])
    except UsageError as error:
        raise MismatchError(
            f"caches {', '.join(map(str, caches))}: {error}, or give model, a segmentation model of"
            " kdcache, whose maps theirs are then brought to"
        ) from error


def _cached(
    config: LoaderConfig,
    replay: Replay,
    use: CacheUse,
    online: OnlineTeacher | None,
    *,
    compute: Compute,
    layout: Layout | None,
) -> Teacher:
    cached = CachedTeacher(use.cache, use.reader(), compute, tail=config.tail, fallback=online)
    teacher = _lying_as(layout, cached, use.cache.manifest.layout)
    if config.tail != "uniform" and isinstance(teacher, ResampledTeacher):
        raise UsageError(
            f"tail {config.tail!r} is of a softmax of each position, and the maps of cache"
            f" {use.cache} are brought to the student's size as logits, in which the tail is even;"
            " leave it out, or take a student whose maps have the teacher's size"
        )
    if use.classes is None:
        return teacher
    return MappedTeacher(teacher, use.classes, replay.source.classes, compute)


def _lying_as(student: Layout | None, teacher: Teacher, layout: Layout) -> Teacher:
    """Return a teacher whose logits lie as the student's: maps of another size are brought to it.

    Args:
        student: of the student's logits; None if they are not known.
        teacher: the teacher.
        layout: of its logits.

    Raises:
        MismatchError: they lie otherwise.
    """
    if student is None:
        return teacher
    if student.maps is None or layout.maps is None:
        _require_same_positions(student, layout)
        return teacher
    _, *student_size = student.maps
    _, *size = layout.maps
    if size == student_size:
        return teacher
    say(
        f"note: the teacher's maps of {size_text(size)} are brought to {size_text(student_size)},"
        " the student's (logits, bilinear)"
    )
    height, width = student_size
    return ResampledTeacher(teacher, (height, width))


def _require_same_positions(student: Layout, layout: Layout) -> None:
    """Raise a MismatchError if the positions of a student's logits are not those of the
    teacher's."""
    if not student.holds_alike(layout):
        contrast = student.contrast(layout)
        raise MismatchError(
            f"the student's logits do not lie as the teacher's: {contrast}; take a student of"
            f" {_what_suits(student, layout)}"
        )


def _what_suits(student: Layout, layout: Layout) -> str:
    """Return what a student must be whose positions are not those of the teacher's."""
    if layout.has_boxes and not student.has_boxes:
        return "two stages, as the teacher is"
    if student.has_boxes and not layout.has_boxes:
        return "one stage, as the teacher is"
    return (
        "the same levels, strides, anchors and activation: of the teacher's own kind, such as"
        " retinanet for retinanet"
    )


def _online(
    config: LoaderConfig, replay: Replay, sizes: Sequence[Size], compute: Compute
) -> tuple[OnlineTeacher, list[Size]]:
    """Return the teacher in the loop, and the input sizes to render."""
    if replay.caches:
        classes = replay.caches[0].cache.manifest.classes
    else:
        classes = replay.source.classes
    model = open_model(
        str(config.teacher),
        classes=classes,
        recipe=replay.recipe,
        trained=True,
        task=task_of(replay.source),
    )
    for use in replay.caches:
        require_teacher(use.cache, model)
        _require_architecture(use.cache, model)
    teacher_size = model.preprocessing.size
    replay.recipe.require_one_draw(*sizes, teacher_size)
    rendered = list(dict.fromkeys([*sizes, teacher_size]))
    return OnlineTeacher(model, compute, place=rendered.index(teacher_size)), rendered


def _require_architecture(cache: Cache, model: VisionModel) -> None:
    """Check that a teacher has the options that a cache was made with, as its weights do not tell.

    Raises:
        MismatchError: it has others.
    """
    architecture = cache.manifest.teacher.architecture
    if architecture is None:
        return
    if cached_as(architecture) != cached_as(model.architecture):
        raise MismatchError(
            f"teacher {model.spec} is {model.architecture} with its options, and cache {cache} was "
            f"made with {architecture}: the same weights give other logits; give the spec of the"
            " dump"
        )
