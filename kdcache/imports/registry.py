"""The formats that can be imported, and those that cannot, with the reason."""

from collections.abc import Mapping

from kdcache.config.names import choose
from kdcache.errors import UsageError
from kdcache.imports.fkd import Fkd
from kdcache.imports.ml_dr import MlDr

FORMATS: Mapping[str, type[Fkd | MlDr]] = {"fkd": Fkd, "ml-dr": MlDr}
_REFUSED = {
    "tinyvit": (
        "TinyViT keeps a seed of its own augmentation for each view, whose settings are in no file,"
        " and erases with noise that pixels of 8 bits do not hold: its views cannot be rendered"
        " here; dump its teacher with kdcache dump-teacher"
    ),
}


def require_format(name: str) -> None:
    """Check that a format can be imported.

    Raises:
        UsageError: it cannot, with the reason, or is none; the nearest is suggested.
    """
    if name in _REFUSED:
        raise UsageError(f"format {name}: {_REFUSED[name]}")
    choose(name, FORMATS, "format to import")
