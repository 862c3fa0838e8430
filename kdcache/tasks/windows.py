"""Windows of one size that slide over views of any size, and together give their maps."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdcache.errors import UsageError
from kdcache.shapes import ViewLogits
from kdcache.tasks.map_sizes import upsampled


def slide(
    model: nn.Module,
    views: Tensor,
    window: tuple[int, int],
    *,
    align_corners: bool = False,
) -> ViewLogits:
    """Return the main head's logits of views of any size, `[views, 1, height, width, classes]`,
    from windows of one size.

    Windows go by two thirds of themselves; where they overlap the mean of their upsampled logits
    counts. Of a view smaller than the window there is one, the view itself.
    """
    height, width = views.shape[2:]
    sums = torch.zeros(())
    num_windows = torch.zeros(height, width, device=views.device)
    for top in _starts(height, window[0]):
        rows = slice(top, top + window[0])
        for left in _starts(width, window[1]):
            columns = slice(left, left + window[1])
            part = views[:, :, rows, columns]
            maps = model(part)[:, 0].float()
            size = (part.shape[2], part.shape[3])
            planes = upsampled(maps, size, align_corners=align_corners)
            if sums.ndim == 0:
                sums = planes.new_zeros(len(views), planes.shape[1], height, width)
            sums[:, :, rows, columns] += planes
            num_windows[rows, columns] += 1
    means = sums / num_windows
    return means.permute(0, 2, 3, 1)[:, None]


def _starts(length: int, window: int) -> list[int]:
    step = max(window * 2 // 3, 1)
    last = max(length - window, 0)
    return [*range(0, last, step), last]


def check_window(window: Sequence[int] | None) -> tuple[int, int] | None:
    """Return the height and width of a window.

    Raises:
        UsageError: it is not two numbers above 0.
    """
    if window is None:
        return None
    if len(window) != 2 or min(window) < 1:
        raise UsageError(f"eval_window is {list(window)}; it must be [height, width] in pixels")
    return window[0], window[1]
