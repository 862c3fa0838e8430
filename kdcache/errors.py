"""What kdcache raises: one line each that says what was wrong, the value, what is allowed and the
way out.

A cache from elsewhere may hold any text. So what a message quotes is cut, and so is the whole
message.
"""

MOST_MESSAGE = 480
"""Characters of a message. With the words that the command line puts before it, a line has at
most 500."""
MOST_QUOTED = 60
"""Characters that a message quotes of one value."""
_CUT = "..."


class KdcacheError(Exception):
    """Base of every error that a user can act on; the command line prints it as one line."""

    exit_code = 1
    is_told_elsewhere = False
    """Whether another process of the run tells the user."""

    def __init__(self, message: str = "") -> None:
        """Keep the message as one line; of a long one the middle is left out, since the way out
        stands at its end."""
        super().__init__(one_line(message, MOST_MESSAGE))


def shortened(text: str, most: int) -> str:
    """Return `text` in at most `most` characters; what does not fit is left out of its middle."""
    if len(text) <= most:
        return text
    room = most - len(_CUT)
    tail_length = room // 2
    head = text[: room - tail_length]
    tail = text[len(text) - tail_length :]
    return f"{head}{_CUT}{tail}"


def brief(value: object) -> str:
    """Return how a message names a value that may be of any length: as it is, cut to
    `MOST_QUOTED` characters."""
    return shortened(str(value), MOST_QUOTED)


def quoted(value: object) -> str:
    """Return how a message quotes a value that may be of any length: Python's notation, on one line
    and cut to `MOST_QUOTED` characters."""
    return shortened(" ".join(repr(value).split("\n")), MOST_QUOTED)


def printable(text: str) -> str:
    """Return `text` with what no terminal should be sent, or cannot take, as escapes."""
    return "".join(_escaped(char) for char in text)


def one_line(text: str, most: int) -> str:
    """Return `text` as one line of at most `most` characters that any terminal can be sent."""
    return shortened(printable(" ".join(text.split())), most)


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    return char.encode("unicode_escape", "surrogatepass").decode()


class UsageError(KdcacheError):
    """A spec, option or configuration key that cannot be understood."""

    exit_code = 2


class SourceError(KdcacheError):
    """A data set that is absent, empty or not what it was."""


class UnreadableSampleError(SourceError):
    """One sample that cannot be decoded; the message names it."""


class RecipeError(UsageError):
    """A recipe that cannot be built or does not give an image of the declared size."""


class ModelError(KdcacheError):
    """A model or weights file that cannot be built, loaded or used with this data."""


class CodecError(KdcacheError):
    """Logits that a codec cannot hold."""


class CacheError(KdcacheError):
    """A cache that is absent, unwritable, or of another format."""


class MissingUnitError(CacheError):
    """Records that the cache does not hold."""


class DamagedError(CacheError):
    """Bytes that are not what was written."""

    is_certain = False
    """Whether they were read twice, which the message then says."""


class DamagedUnitError(DamagedError):
    """Bytes that differ from what was committed."""


class LargeObjectError(DamagedError):
    """An object of more bytes than it may have."""


class MismatchError(CacheError):
    """A cache or run that was made with other settings; the message prints the fields that
    differ."""


class ViewMismatchError(KdcacheError):
    """Views rendered here differ from those that the teacher saw."""


class StoppedError(KdcacheError):
    """A signal told the process to stop; the message says which, and what is kept."""


class KdcacheWarning(UserWarning):
    """Something that a user should know and that does not stop the work."""
