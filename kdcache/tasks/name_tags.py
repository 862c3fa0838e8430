"""Names beside boxes in a picture: each where no other is, none where there is no room."""

from typing import Any

from kdcache.errors import one_line

_POINTS = 7.5
_SMALL_POINTS = 6.0
_PADDING = 2.0
_MARK_POINTS = 5.0
"""Of the text, around it, and of a mark, in points."""
_POINTS_PER_INCH = 72
_MOST_CHARS = 22

Box = tuple[float, float, float, float]
"""Left, upper, right and lower side."""


class NameTags:
    """The tags of a panel that shows a view."""

    def __init__(
        self, panel: Any, size: tuple[int, int], panel_width: float, *, is_small: bool = False
    ) -> None:
        """Take the panel.

        Args:
            panel: of matplotlib.
            size: height and width of the view in pixels.
            panel_width: about how wide the panel will be, in inches.
            is_small: whether there are many, so that they are to hide less.
        """
        self._panel = panel
        self._height, self._width = size
        self._pixels_per_point = self._width / (panel_width * _POINTS_PER_INCH)
        self._points = _POINTS
        if is_small:
            self._points = _SMALL_POINTS
        self._placed: list[Box] = []

    def mark(self, x: float, y: float, colour: Any) -> Box:
        """Draw a mark at a point, which no later tag will hide; return the box around it."""
        self._panel.plot(x, y, "o", ms=_MARK_POINTS, mfc=colour, mec="white", mew=1, zorder=3)
        reach = (_MARK_POINTS + _PADDING) / 2 * self._pixels_per_point
        box = (x - reach, y - reach, x + reach, y + reach)
        self._placed.append(box)
        return box

    def add(self, name: str, score: float | None, box: Box, colour: Any) -> bool:
        """Write a name, and a score if there is one, above a box, in it, below or beside; return
        whether there was room."""
        text = one_line(name, _MOST_CHARS)
        if score is not None:
            text = f"{text} {score:.2f}"
        width = (_text_width(text, self._points) + 2 * _PADDING) * self._pixels_per_point
        height = (1.25 * self._points + _PADDING) * self._pixels_per_point
        for left, top in self._corners(box, width, height):
            place = (left, top, left + width, top + height)
            if self._is_free(place):
                self._placed.append(place)
                self._write(text, place, colour)
                return True
        return False

    def _corners(self, box: Box, width: float, height: float) -> list[tuple[float, float]]:
        """Return where the upper left corner of a tag may be, the best place first."""
        left, upper, right, lower = box
        # most of a name beside an object at the right edge would be cut off
        start = min(max(left, 0.0), self._width - width)
        end = min(max(right - width, 0.0), self._width - width)
        tops = (upper - height, upper, lower - height, lower)
        middle = (upper + lower - height) / 2
        corners = [(start, top) for top in tops]
        corners += [(end, top) for top in tops]
        corners += [(right, middle), (left - width, middle)]
        return corners

    def _is_free(self, place: Box) -> bool:
        left, upper, right, lower = place
        if left < 0 or upper < 0 or right > self._width or lower > self._height:
            return False
        for other_left, other_upper, other_right, other_lower in self._placed:
            is_beside = left >= other_right or right <= other_left
            is_above = upper >= other_lower or lower <= other_upper
            if not is_beside and not is_above:
                return False
        return True

    def _write(self, text: str, place: Box, colour: Any) -> None:
        from matplotlib.patches import Rectangle  # noqa: PLC0415

        left, upper, right, lower = place
        self._panel.add_patch(
            Rectangle((left, upper), right - left, lower - upper, color=colour, lw=0, zorder=4)
        )
        written = self._panel.text(
            (left + right) / 2,
            (upper + lower) / 2,
            text,
            fontsize=self._points,
            color=ink_on(colour),
            ha="center",
            va="center_baseline",
            parse_math=False,
            zorder=5,
        )
        written.set_in_layout(False)


def ink_on(colour: Any) -> str:
    """Return black or white, whichever is read more easily on a colour."""
    from matplotlib.colors import to_rgb  # noqa: PLC0415

    red, green, blue = to_rgb(colour)
    # luma of ITU-R BT.601
    if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55:
        return "black"
    return "white"


def _text_width(text: str, size: float) -> float:
    """Return the width of a text in points."""
    from matplotlib.font_manager import FontProperties  # noqa: PLC0415
    from matplotlib.textpath import text_to_path  # noqa: PLC0415

    font = FontProperties(size=size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)
