"""Scores by their names in a run's files: what a page calls them, and which one leads."""

from collections.abc import Iterable, Sequence

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
_LEADING = ("top1", "miou", "ap")
"""The score that the best weights of a run have most of, one of each task."""
_AVERAGE = "ema_"


def title_of(name: str) -> str:
    """Return what a page calls a score; one of the average of weights says so."""
    base = name.removeprefix(_AVERAGE)
    title = TITLES.get(base, base)
    if base != name:
        title += " of the average"
    return title


def leading(names: Iterable[str]) -> str | None:
    """Return the score that runs are compared by; None if they have none."""
    candidates = set(names)
    for name in _LEADING:
        if name in candidates:
            return name
    return None


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
