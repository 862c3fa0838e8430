"""Calls of the user's own code: whatever it raises becomes one line that says whose code it was,
and where."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcache.errors import KdcacheError, one_line

_OWN_FOLDER = Path(__file__).parents[1]
_LONGEST_REASON = 200


@contextmanager
def user_code(what: str, error: type[KdcacheError], *, way_out: str = "mend it") -> Iterator[None]:
    """Run the block, which calls code that kdcache does not own.

    Args:
        what: names the call, as the subject of a sentence: `sample 7 of mypkg.data:build`.
        error: what is raised in the place of an exception of that code.
        way_out: what the user can do, the end of the message.

    Raises:
        KdcacheError: of the class `error`: the code raised something. Errors of kdcache pass as
            they are, and so do those that are not about the code: memory that ran out, an
            interrupt.
    """
    try:
        yield
    except (KdcacheError, MemoryError):
        raise
    # SystemExit: a script that ends the interpreter when it is imported
    except (Exception, SystemExit) as exception:
        # torch's, of a GPU; torch need not be imported here
        if type(exception).__name__ == "OutOfMemoryError":
            raise
        reason = exception_text(exception)
        raise error(f"{what} fails: {reason}{_place(exception)}; {way_out}") from exception


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
