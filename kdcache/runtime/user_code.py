"""Calls of the user's own code: whatever it raises becomes one line that says whose code it was,
and where."""

import traceback
from pathlib import Path

from kdcache.errors import KdcacheError, one_line

_OWN_FOLDER = Path(__file__).parents[1]
_LONGEST_REASON = 200


class user_code:  # noqa: N801 # a function to its callers
    """Run the block, which calls code that kdcache does not own.

    It is entered for each sample, and a class takes a third of the time of a generator.

    Raises:
        KdcacheError: of the class `error`: the code raised something. Errors of kdcache pass as
            they are, and so do those that are not about the code: memory that ran out, an
            interrupt.
    """

    def __init__(self, what: str, error: type[KdcacheError], *, way_out: str = "mend it") -> None:
        """Prepare to run it.

        Args:
            what: names the call, as the subject of a sentence: `sample 7 of mypkg.data:build`.
            error: what is raised in the place of an exception of that code.
            way_out: what the user can do, the end of the message.
        """
        self._what = what
        self._error = error
        self._way_out = way_out

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _: object, exception: BaseException | None, trace: object) -> None:
        # SystemExit: a script that ends the interpreter when it is imported
        if not isinstance(exception, (Exception, SystemExit)):
            return
        if isinstance(exception, (KdcacheError, MemoryError)):
            return
        # torch's, of a GPU; torch need not be imported here
        if type(exception).__name__ == "OutOfMemoryError":
            return
        reason = f"{exception_text(exception)}{_place(exception)}"
        raise self._error(f"{self._what} fails: {reason}; {self._way_out}") from exception


def exception_text(exception: BaseException) -> str:
    """Return the class and the message of an exception, on one line of bounded length."""
    message = one_line(str(exception), _LONGEST_REASON)
    name = type(exception).__name__
    if not message:
        return name
    return f"{name}: {message}"


def _place(exception: BaseException) -> str:
    """Return where outside kdcache it was raised, as ` (file.py, line 7)`; nothing if unknown.

    The user's own file counts more than those of a library that it calls.
    """
    place = ""
    for frame in reversed(traceback.extract_tb(exception.__traceback__)):
        file = Path(frame.filename)
        if not file.exists() or file.is_relative_to(_OWN_FOLDER):
            continue
        if "site-packages" not in file.parts:
            return _place_text(file, frame)
        place = place or _place_text(file, frame)
    return place


def _place_text(file: Path, frame: traceback.FrameSummary) -> str:
    return f" ({file.name}, line {frame.lineno})"
