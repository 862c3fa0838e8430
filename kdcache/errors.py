"""What kdcache raises: one line each that says what was wrong, the value, what is allowed and the way out."""


class KdcacheError(Exception):
    """Base of every error that a user can act on; the command line prints it as one line."""

    exit_code = 1
    is_told_elsewhere = False
    """Whether another process of the run tells the user."""


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


class DamagedUnitError(CacheError):
    """Bytes that differ from what was committed."""


class LargeObjectError(CacheError):
    """An object of more bytes than it may have."""


class MismatchError(CacheError):
    """A cache or run that was made with other settings; the message prints the fields that differ."""


class DriftError(KdcacheError):
    """Views rendered here differ from those that the teacher saw."""


class StoppedError(KdcacheError):
    """A signal told the process to stop; the message says which, and what is kept."""


class KdcacheWarning(UserWarning):
    """Something that a user should know and that does not stop the work."""
