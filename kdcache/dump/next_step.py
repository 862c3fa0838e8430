"""The command that comes after a dump: a training from its cache, which works as it is printed."""

import shlex

from kdcache.config.spec import Spec, parse_spec
from kdcache.dump.job import Job
from kdcache.errors import RecipeError
from kdcache.models.weight_record import ORIGINS, without_options
from kdcache.shapes import Size, as_size, sides, size_text
from kdcache.sources import splits_of
from kdcache.sources.evaluation_split import evaluation_split

EPOCHS = 100
"""Of the training."""
_CLASS_MAP = "map.csv"
_STRIDES = (8, 16, 32)
"""Of a ResNet of timm, the finest first."""
_MAP_BATCH = 16


def training_command(job: Job) -> str:
    """Return a shell's command that trains a student from the cache of a dump.

    A teacher of other classes than the data needs a map of classes, which only the user can write:
    a comment in the line before says how. What a program gave no command can name: then it is the
    call of a loader.
    """
    if job.objects.source is not None:
        return f"loader = kdcache.DistillationLoader({str(job.config.cache)!r}, data=...)"
    has_map = job.manifest.classes != job.source.classes
    options = {}
    if has_map:
        options["classes"] = _CLASS_MAP
    cache = Spec("cache", str(job.config.cache), options)
    words = ["kdcache", "train-student", "RUN", "--cache", str(cache).removeprefix("cache:")]
    if not job.manifest.has_images:
        words += ["--data", job.config.data]
    eval_data = evaluation_split(job.config.data, splits_of(job.source))
    if eval_data is not None:
        words += ["--eval-data", eval_data]
    words += ["--student", str(_student(job)), "--loss", "dist", "--epochs", str(EPOCHS)]
    if job.teacher.sites:
        words += ["--batch-size", str(_MAP_BATCH)]
    if job.teacher.student_rate is not None:
        words += ["--lr", f"{job.teacher.student_rate:g}"]
    command = shlex.join(words)
    if not has_map:
        return command
    line = "CLASS OF THE DATA,CLASS OF THE TEACHER"
    return f"# write {_CLASS_MAP} first: a line {line} for each class that both have\n{command}"


def _student(job: Job) -> Spec:
    """Return a student for the views of a dump: a ResNet-18, or what the teacher is of."""
    size = _student_size(job)
    options: dict[str, int | str] = {}
    if size is not None:
        options["input_size"] = _size_value(size)
    if not job.teacher.sites:
        return Spec("timm", "resnet18", options)
    # what says how images are prepared, too: functions of the user's own need it
    teacher = without_options(parse_spec(job.teacher.spec), ORIGINS)
    if job.teacher.layout.maps is None:
        return Spec(teacher.name, teacher.arg, {**teacher.options, **options})
    height, width = sides(size or job.recipe.input_size)
    for stride in _STRIDES:
        if height % stride == 0 and width % stride == 0:
            return Spec("timm", "resnet18", {"output_stride": stride, **options})
    return Spec(teacher.name, teacher.arg, {**teacher.options, **options})


def _student_size(job: Job) -> Size | None:
    """Return the input size that a student must be told; None if the recipe's own will do."""
    teacher = as_size(job.teacher.preprocessing.size)
    if job.recipe.size is None:
        return teacher
    try:
        job.recipe.require_one_draw(as_size(job.recipe.size), teacher)
    except RecipeError:
        return teacher
    return None


def _size_value(size: Size) -> int | str:
    if isinstance(size, int):
        return size
    return size_text(size)
