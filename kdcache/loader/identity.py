"""What must be the same for steps to be the same: where a loader goes on from a state, and in all
processes that share its steps."""

from collections.abc import Mapping
from typing import Any

from kdcache.errors import MismatchError, UsageError
from kdcache.loader.config import LoaderConfig
from kdcache.loader.replay import Replay
from kdcache.loader.teachers import Teacher
from kdcache.runtime.agreement import require_same
from kdcache.runtime.distributed import world_size
from kdcache.runtime.wording import counted

_ONE_LOADER = (
    "give every process the same loader, in the same state: it shares the views of each step among"
    " them"
)

_WAYS_OUT = {
    "window": (
        "give the one that the loop began with, or, if it was given none, the slab_limit and the"
        " kind of storage that it began with: these choose it"
    )
}
"""For settings of the order that others may decide."""


def identity_of(replay: Replay, teacher: Teacher) -> dict[str, str]:
    """Return what the views and their soft targets depend on: fingerprints by name."""
    digests = [use.cache.manifest.digest for use in replay.caches]
    return {
        "source": replay.source.fingerprint,
        "recipe": replay.recipe.fingerprint,
        "teacher": teacher.identity,
        "cache": ", ".join(digests) or "none",
    }


def order_of(config: LoaderConfig, replay: Replay) -> dict[str, Any]:
    """Return the settings that the order of views and the number of steps depend on."""
    window = None
    if replay.blocks is not None:
        window = replay.blocks.window
    return {
        "batch_size": config.batch_size,
        "run_seed": config.order,
        "repeats": config.repeats,
        "window": window,
        "samples": replay.samples_digest,
    }


def require_identity(state: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """Raise a MismatchError if a state is of other data, another recipe, teacher or cache."""
    for name, value in identity.items():
        state_value = state["identity"].get(name)
        if state_value != value:
            raise MismatchError(
                f"the state is of another {name} ({state_value} there, {value} now); give the one"
                " that it is of"
            )


def require_order(state: Mapping[str, Any], order: Mapping[str, Any]) -> None:
    """Raise a MismatchError if steps count in another order; states of old versions tell none."""
    state_order = state.get("order", {})
    for name, value in order.items():
        state_value = state_order.get(name, value)
        if state_value != value:
            raise MismatchError(
                f"the state is of {name} {state_value}, here it is {value}: steps count in another"
                f" order; {_WAYS_OUT.get(name, 'give the one that the loop began with')}"
            )


def require_as_many(processes: int) -> None:
    """Raise a UsageError if there are not as many processes as when a loader was opened."""
    if world_size() != processes:
        raise UsageError(
            f"the loader was opened with {counted(processes, 'process')} joined, and now"
            f" there are {world_size()}: open it after torch.distributed.init_process_group, or"
            " what calls it"
        )


def require_one_loader(facts: Mapping[str, Any]) -> None:
    """Raise a MismatchError in all processes if one of `facts` is not the same in each."""
    texts = {name: str(fact) for name, fact in facts.items()}
    require_same(texts, "their loaders", way_out=_ONE_LOADER)
