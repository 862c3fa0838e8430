"""What files models of each task are exported to, and which settings that has; without torch."""

from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.config.names import choose
from kdcache.errors import UsageError
from kdcache.targets import ClassBoxes, ClassLabel, ClassMask

ONNX = ".onnx"
EXPORTED = ".pt2"
SCRIPT = ".pt"
ENDINGS = (ONNX, EXPORTED, SCRIPT)
"""Of the names of files: ONNX, torch.export, TorchScript."""


@dataclass(frozen=True, kw_only=True)
class ExportForm:
    """How models of a task are exported."""

    endings: tuple[str, ...] = ENDINGS
    why_no_others: str = ""
    gives_logits: bool = True
    """Whether there are logits that it can give in the place of probabilities."""


_FORMS: Mapping[str, ExportForm] = {
    ClassLabel.task: ExportForm(),
    ClassMask.task: ExportForm(),
    ClassBoxes.task: ExportForm(
        endings=(SCRIPT,),
        why_no_others="how many boxes there are depends on the pixels, which torch.export does not"
        " follow",
        gives_logits=False,
    ),
}
"""By task."""


def endings_of(task: str) -> tuple[str, ...]:
    """Return the endings of files that models of a task are exported to."""
    return _FORMS[task].endings


def require_exportable(task: str, ending: str, *, logits: bool) -> None:
    """Check that models of a task are exported to files of an ending.

    Raises:
        UsageError: they are not, have no logits to give, or there is no such task.
    """
    form = _FORMS[choose(task, _FORMS, "task")]
    if ending not in form.endings:
        raise UsageError(
            f"a model of {task} is not exported to {ending}: {form.why_no_others}; name a file that"
            f" ends in {' or '.join(form.endings)}"
        )
    if logits and not form.gives_logits:
        raise UsageError(f"logits is not for {task}; leave it out")
