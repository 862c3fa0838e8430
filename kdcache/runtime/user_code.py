"""Calls of the user's own code: whatever it raises becomes one line that says whose code it was,
and where."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcache.errors import KdcacheError, one_line

_OWN_FOLDER = Path(__file__).parent
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
            they are, and so do
            those that are not about the code: memory that ran out, an interrupt.
    """
    try:
        yield
    except (KdcacheError, MemoryError):
        raise
    except (
        Exception,
        SystemExit,
    ) as raised:  # a script that ends the interpreter when it is imported
        # torch's, of a GPU; torch need not be imported here
        if type(raised).__name__ == "OutOfMemoryError":
            raise
        raise error(
            f"{what} fails: {exception_text(raised)}{_place(raised)}; {way_out}"
        ) from raised


def exception_text(raised: BaseException) -> str:
    """Return the class and the message of an exception, on one line of bounded length."""
    message = one_line(str(raised), _LONGEST_REASON)
    name = type(raised).__name__
    return f"{name}: {message}" if message else name


def _place(raised: BaseException) -> str:
    """Return where outside kdcache it was raised, as ` (file.py, line 7)`; nothing if unknown.

    The user's own file counts more than those of a library that it calls.
    """
    frames = list(filter(_is_outside, traceback.extract_tb(raised.__traceback__)))
    own = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts]
    for frame in reversed(own or frames):
        return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""


def _is_outside(frame: traceback.FrameSummary) -> bool:
    file = Path(frame.filename)
    return file.exists() and not file.is_relative_to(_OWN_FOLDER)
