"""What a family of models gives, and what its builders share.

A family is one file of this folder, and one entry in registry.py.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdcache.config.spec import Spec
from kdcache.deferred import Module
from kdcache.errors import KdcacheError, ModelError, UsageError
from kdcache.runtime.downloads import network_reason
from kdcache.runtime.user_code import exception_text

Built = tuple[Module, dict[str, Any]]
"""A model, and what it wants of a view: `mean`, `std` and `input_size`; also `label_names` of its
weights' classes, if the library says them.

Of those that it leaves out, mean and std are ImageNet's, and the size is the recipe's. Where mean
and std are None, the spec must give them.
"""
Builder = Callable[[Spec, int | None, int], Built]
"""Makes a model of a spec without weights=FILE and preprocessing, for a number of classes and of
channels. Where the number of classes is None the model keeps its trained head."""


@dataclass(frozen=True)
class Family:
    """Models of one library."""

    builders: Mapping[str, Builder]
    """By task."""
    check: Callable[[Spec], None]
    """Raises a UsageError or a ModelError if the library has no such model; makes none."""
    check_name: Callable[[Spec], None] | None = None
    """Raises a UsageError for a name that the library's sources do not have; imports nothing."""
    has_named_weights: bool = False
    """Whether `weights` may be a name that the library knows, and no file."""
    is_pretrained: bool = False
    """Whether models have trained weights unless the spec says pretrained=false."""


@contextmanager
def constructing(
    spec: Spec, way_out: str, *, refused: Callable[[Exception], None] | None = None
) -> Iterator[None]:
    """Run a library's constructor of the model that `spec` names; what it raises becomes one line.

    Args:
        spec: of the model.
        way_out: what the user can do, for messages.
        refused: raises a UsageError about what the library raised of an option, if it knows which
            there are.

    Raises:
        UsageError: an option of the wrong name, type or value.
        ModelError: anything else, such as weights that cannot be reached.
    """
    try:
        yield
    except (KdcacheError, MemoryError):
        raise
    except (TypeError, AttributeError, AssertionError, LookupError) as error:
        if refused is not None:
            refused(error)
        raise UsageError(f"model {spec}: {exception_text(error)}; check its options") from error
    except Exception as error:
        reason = network_reason(error)
        if reason is not None:
            raise ModelError(
                f"model {spec}: its weights cannot be downloaded: {reason}; check the network, or"
                " download them elsewhere and give weights=FILE"
            ) from error
        raise ModelError(f"model {spec}: {exception_text(error)}; {way_out}") from error
