"""Source `torchvision`: any classification set of torchvision, by its class name and with its own options."""

from torchvision import datasets

from kdcache.errors import SourceError
from kdcache.sources.dataset import DatasetSource
from kdcache.sources.protocol import Source
from kdcache.spec import Spec, check_options, choose


def open_torchvision(spec: Spec) -> Source:
    """Return the data set that the spec names.

    Raises:
        SourceError: its files are not there, or it has no class targets.
    """
    names = [name for name in datasets.__all__ if name not in ("ImageFolder", "DatasetFolder", "FakeData")]
    cls = getattr(datasets, choose(spec.arg or "", names, "torchvision data set"))
    options = dict(spec.options)
    # a number is for us: the data set does not say; LSUN has a parameter of that name, which is a list or text
    given = options.get("classes")
    classes = given if isinstance(given, int) else None
    if classes is not None:
        del options["classes"]
    check_options(cls, Spec(spec.name, spec.arg, options), "source")
    try:
        dataset = cls(**options)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"source {spec}: {reason}; check root={options.get('root')!r}, or add download=true if the set can be downloaded"
        ) from error
    return DatasetSource(dataset, spec, classes)
