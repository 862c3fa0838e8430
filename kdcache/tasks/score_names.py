"""Scores by their names in results: what users are told that they are, and which one leads; without
torch."""

from collections.abc import Iterable, Sequence

from kdcache.targets import ClassBoxes, ClassLabel, ClassMask

TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "pixel_accuracy": "pixels right",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "calibration_error": "calibration error",
}
"""Scores in percent, in the order in which they are told."""
OF_CLASSES = ("accuracy/", "iou/", "ap/")
"""What the names of scores of single classes begin with."""
BEST = {ClassLabel.task: "top1", ClassMask.task: "miou", ClassBoxes.task: "ap"}
"""The score that the best weights of a run have most of, by the task."""
_AVERAGE = "ema_"
"""What the names of scores of averaged weights begin with."""


def title_of(name: str) -> str:
    """Return what users are told that a score is; one of the average of weights says so."""
    base = name.removeprefix(_AVERAGE)
    title = TITLES.get(base, base)
    if base != name:
        title += " of the average"
    return title


def leading(names: Iterable[str]) -> str | None:
    """Return the score that runs are compared by; None if they have none."""
    candidates = set(names)
    for name in BEST.values():
        if name in candidates:
            return name
    return None


def leading_scores(names: Iterable[str]) -> list[str]:
    """Return the score that runs are compared by and that of the average of weights, as far as they
    are among some names."""
    candidates = set(names)
    name = leading(candidates)
    if name is None:
        return []
    return [each for each in (name, _AVERAGE + name) if each in candidates]


def percent_scores(names: Iterable[str]) -> list[str]:
    """Return the scores in percent among some names, the leading one first."""
    candidates = set(names)
    scores: list[str] = []
    for prefix in ("", _AVERAGE):
        for name in TITLES:
            if prefix + name in candidates:
                scores.append(prefix + name)
    return scores


def class_scores(numbers: Iterable[str]) -> dict[str, str]:
    """Return the names of the scores of single classes, by the class."""
    names: dict[str, str] = {}
    for name in numbers:
        if name.startswith(OF_CLASSES):
            names[name.partition("/")[2]] = name
    return names


def class_score_title(names: Sequence[str]) -> str:
    """Return what the scores of single classes of these names are."""
    kind = "accuracy"
    if names:
        kind = names[0].partition("/")[0]
    return {"iou": "IoU", "ap": "AP"}.get(kind, kind)
