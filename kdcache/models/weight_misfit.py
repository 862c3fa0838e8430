"""What does not fit a model in a file of weights, told with the way out."""

import difflib
from collections.abc import Iterable, Sequence

from kdcache.errors import brief
from kdcache.models.weight_formats import some_names
from kdcache.models.weight_parts import Content, Part
from kdcache.targets import ClassBoxes

TEACHER_ADVICE = (
    "add --teacher-classes {given} to the dump (a student then needs a map of classes), or take a"
    " teacher of the data's classes"
)
"""What to do with a teacher of other classes than the data; `given` is how many it has."""
DETECTOR_ADVICE = (
    "the scores of a detector are not mapped to other classes: take a teacher of the data's"
    " classes, which train-student --loss ce makes of this one with head=new"
)
"""As `TEACHER_ADVICE`, of a detector."""


def classes_advice(task: str) -> str:
    """Return what to do with a teacher of a task that has other classes than the data."""
    if task == ClassBoxes.task:
        return DETECTOR_ADVICE
    return TEACHER_ADVICE


def other_content(content: Content, parts: Sequence[Part]) -> str:
    """Return what a file holds that has none of the model's tensors, with the way out."""
    keys = [str(key) for key in content]
    key_text = some_names(keys)
    if _are_of_optimiser(keys):
        return f"the state of an optimiser, not of the model ({key_text}); name the model's file"
    if not parts:
        what = key_text or "it is empty"
        return f"no tensors with names ({what}); save the model's state_dict"
    part = max(parts, key=lambda part: len(part.tensors))
    file_names = some_names(list(part.tensors))
    model_names = some_names(list(part.model_state))
    return (
        f"none of the model's tensors: {file_names} in the file, {model_names} in the model; these"
        " are weights of another architecture"
    )


def misfit(part: Part, classes: int, advice: str | None) -> str:
    """Return what does not fit, first what explains most.

    Args:
        part: of a file of weights.
        classes: that the model is to have.
        advice: what to do with a teacher of other classes, see `TEACHER_ADVICE`; None of a student.
    """
    subject = ""
    if part.name:
        subject = f"(part {brief(part.name)}) "
    file_classes = _other_classes(part, classes)
    if file_classes:
        if advice is not None:
            way_out = advice.format(given=file_classes)
        else:
            way_out = (
                f"add head=new, which draws its last layers anew, take weights of {classes}, or"
                " leave weights out: the student then starts anew"
            )
        return f"{subject}has {file_classes} classes, and {classes} are asked for: {way_out}"
    channels = _other_channels(part)
    if channels:
        mode = "RGB" if channels == 3 else "L"
        return f'{subject}is for images of {channels} channels; use a recipe with mode = "{mode}"'
    num_tensors = len(part.model_state)
    num_fitting = num_tensors - len(part.missing_names) - len(part.reshaped_names)
    return (
        f"{subject}does not fit the model for {classes} classes: {_first_difference(part)} "
        f"({num_fitting} of the model's {num_tensors} tensors fit); check its name and its options"
    )


def _are_of_optimiser(keys: Iterable[str]) -> bool:
    return any("optim" in key or key == "param_groups" for key in keys)


def _first_difference(part: Part) -> str:
    """Return a tensor that does not fit, in the file's own words."""
    if part.reshaped_names:
        name = part.reshaped_names[0]
        file_shape = tuple(part.tensors[name].shape)
        model_shape = tuple(part.model_state[name].shape)
        file_name = brief(part.prefix + name)
        return f"{file_name} is {file_shape} in the file, {model_shape} in the model"
    if part.missing_names:
        name = part.missing_names[0]
        file_name = brief(part.prefix + name)
        return f"{file_name} is missing in the file{_near_name(name, part)}"
    file_name = brief(part.prefix + part.unknown_names[0])
    return f"{file_name} is unknown to the model"


def _other_classes(part: Part, classes: int) -> int | None:
    """Return how many classes a file's last layers have, if that is all that does not fit.

    A detector's layers have several outputs for each class, such as one for each anchor or four for
    a box; some count the background as one more class.
    """
    if part.missing_names or part.unknown_names:
        return None
    for num_background in (0, 1):
        counts: set[int | None] = set()
        for name in part.reshaped_names:
            file_shape = part.tensors[name].shape
            model_shape = part.model_state[name].shape
            counts.add(_classes_in(file_shape, model_shape, classes + num_background))
        count = counts.pop()
        if not counts and count is not None:
            return count - num_background
    return None


def _classes_in(file_shape: Sequence[int], model_shape: Sequence[int], classes: int) -> int | None:
    """Return of how many classes a file's tensor is, where the model's is of `classes`; None if
    they differ otherwise."""
    if not file_shape or file_shape[1:] != model_shape[1:] or model_shape[0] % classes:
        return None
    outputs_of_class = model_shape[0] // classes
    if file_shape[0] % outputs_of_class:
        return None
    return file_shape[0] // outputs_of_class


def _other_channels(part: Part) -> int | None:
    """Return the channels of images that a file is for, if only its first layer differs so."""
    if len(part.reshaped_names) != 1 or part.missing_names or part.unknown_names:
        return None
    (name,) = part.reshaped_names
    file_shape = list(part.tensors[name].shape)
    model_shape = list(part.model_state[name].shape)
    if len(file_shape) != 4 or len(model_shape) != 4:
        return None
    file_channels = file_shape.pop(1)
    model_channels = model_shape.pop(1)
    if file_shape != model_shape or {file_channels, model_channels} != {1, 3}:
        return None
    return file_channels


def _near_name(name: str, part: Part) -> str:
    """Return what a tensor that is missing may be called in the file."""
    end = name.rpartition(".")[2]
    names = [*part.unknown_names, *part.outside_names]
    candidates = [candidate for candidate in names if candidate.endswith(end)]
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.4)
    if not near:
        return ""
    return f", which has {brief(near[0])}"
