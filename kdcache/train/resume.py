"""What a checkpoint must have in common with the run that goes on from it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from kdcache.errors import MismatchError
from kdcache.runtime.user_code import exception_text
from kdcache.train.config import TrainConfig


def require_same_identity(
    config: TrainConfig, saved: Mapping[str, str], current: Mapping[str, str]
) -> None:
    """Check that a run goes on with the data and the cache that it was trained with.

    Args:
        config: of the run.
        saved: what tells them, as the checkpoint has it.
        current: what tells those that are open now.

    Raises:
        MismatchError: they are others.
    """
    for name, value in current.items():
        if saved.get(name) != value:
            raise MismatchError(
                f"run {config.run} was trained with another {name} "
                f"({saved.get(name)} there, {value} now); choose a new run folder"
            )


@contextmanager
def fitting_state(config: TrainConfig, what: str) -> Iterator[None]:
    """Load a part of a checkpoint in the block: it fits no longer if the student is built
    otherwise by now.

    Raises:
        MismatchError: it does not fit.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise MismatchError(
            f"run {config.run}: the {what} of its checkpoint do not fit:"
            f" {exception_text(error)}; the code of {config.student}, timm or torch is"
            " another than when the run began: go back to it, or choose a new run folder"
        ) from error
