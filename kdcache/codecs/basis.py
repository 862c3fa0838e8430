"""What a codec is whose fit is a basis and a step: fitting it takes a sample and a search."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from kdcache.codecs.protocol import RowCodec
from kdcache.codecs.transform import Fit
from kdcache.deferred import Tensor
from kdcache.shapes import Logits, Records


@runtime_checkable
class BasisCodec(RowCodec, Protocol):
    """A codec of rows whose fit is a basis and a step."""

    @property
    def step(self) -> float | None:
        """Quantisation step, in units of logits; None if a search is to find it."""

    @property
    def error(self) -> float | None:
        """Instead of a step: the error of DIST's gradient that the fit must meet."""

    @property
    def bytes(self) -> float | None:
        """Instead of a step: the bytes per view, as stored, that the fit must meet."""

    @property
    def fitted(self) -> Fit | None:
        """The fit, once it is made."""

    def fit(self, logits: Logits, head: Tensor | None = None) -> "BasisCodec":
        """Return this codec fitted to a calibration sample at its step, `head` being the weights of
        the teacher's classifier, `[classes, features]`."""

    def with_fit(self, fit: Fit) -> "BasisCodec":
        """Return this codec with `fit`."""

    def fields_of_integers(self, integers: Tensor) -> dict[str, Tensor]:
        """Return the fields of the records of rows of integers `[rows, axes]`."""

    def records_of(self, fields: Mapping[str, Tensor]) -> Records:
        """Return the records that have these fields."""
