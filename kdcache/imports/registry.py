"""The formats that can be imported."""

from collections.abc import Mapping

from kdcache.config.names import choose
from kdcache.imports.fkd import Fkd
from kdcache.imports.ml_dr import MlDr
from kdcache.imports.tinyvit import TinyVit

FORMATS: Mapping[str, type[Fkd | MlDr | TinyVit]] = {
    "fkd": Fkd,
    "ml-dr": MlDr,
    "tinyvit": TinyVit,
}


def require_format(name: str) -> None:
    """Check that a format can be imported.

    Raises:
        UsageError: it is none; the nearest is suggested.
    """
    choose(name, FORMATS, "format to import")
