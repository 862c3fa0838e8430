"""Models that the user's own function returns: `mypkg.models:build,width=2`."""

from kdcache.config.spec import Spec
from kdcache.config.user_functions import find_function, load_function
from kdcache.deferred import Module
from kdcache.errors import ModelError
from kdcache.models.building import Built
from kdcache.models.registry import FAMILIES
from kdcache.runtime.image_items import described


def build_own(spec: Spec, classes: int | None, channels: int) -> Built:
    """Return what the function that `spec` names returns; the spec has to give its classes.

    Raises:
        UsageError: no such function, or options that do not fit.
        ModelError: it raises something, or returns no module.
    """
    module = load_function(spec, "model", FAMILIES, error=ModelError)
    if not isinstance(module, Module):
        raise ModelError(
            f"model {spec} gave {described(module)}; the function must return a torch.nn.Module"
        )
    return module, {}


def check_own(spec: Spec) -> None:
    """Check that there is such a function, and that it takes such options.

    Raises:
        UsageError: there is none, or it does not.
        ModelError: its module cannot be imported.
    """
    find_function(spec, "model", FAMILIES, error=ModelError)
