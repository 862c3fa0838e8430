"""Map-style data sets of (image, mask) pairs as sources: a class index for each pixel; and masks as
files."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.errors import SourceError
from kdcache.runtime.image_items import described
from kdcache.runtime.images import UndecodableError, is_of_decoding
from kdcache.runtime.text_files import path_bytes
from kdcache.runtime.wording import ranges
from kdcache.shapes import IGNORED
from kdcache.sources.dataset import MapStyle
from kdcache.sources.files import Numbers, Paths, are_files, listed_path
from kdcache.sources.protocol import Contents, Sample
from kdcache.targets.mask import ClassMask, check_size

_INDEXED = ("L", "P", "1", "I")  # modes whose pixels are numbers; also I;16 and the like
_PROBED = 64
NOT_LOSSY = "that changes ids at the edges of things: make the masks anew, as PNG"
LARGEST_ID = 65_535


class MaskSource(MapStyle):
    """A map-style data set of (image, mask) pairs as a source.

    Samples come in the order of their paths, or of the data set where it lists none. The
    fingerprint covers the number of samples, the listed paths, and which ids are which classes; of
    a data set that lists no files, 64 samples.
    """

    task = ClassMask.task
    _TARGET = "mask"

    def __init__(
        self,
        dataset: Any,
        spec: Spec,
        *,
        classes: int,
        class_names: tuple[str, ...] | None = None,
        ids: Mapping[int, int] | None = None,
        ids_hint: str = "give the right number of classes, or say which id is which (ids)",
        encoded: Callable[[int], bytes | None] | None = None,
    ) -> None:
        """Take the data set.

        Args:
            dataset: of (image, mask) pairs.
            spec: that it was opened from.
            classes: how many there are.
            class_names: their names.
            ids: class of each id that its masks hold, 255 for none; by default ids are classes, and
                255 none.
            ids_hint: what the user can do about an id that is no class, which stands for `{}`.
            encoded: the file of an image of the data set, see `MapStyle.stored`; by default its
                own, if it has such a method.

        Raises:
            SourceError: no sample, a number of classes that masks cannot hold, or a name twice.
        """
        super().__init__(dataset, spec)
        if not 2 <= classes <= IGNORED:
            raise SourceError(
                f"source {spec} has {classes} classes; masks hold 2 (what is nothing else is one)"
                f" to {IGNORED}"
            )
        if class_names is not None and len(set(class_names)) < len(class_names):
            repeated = next(name for name in class_names if class_names.count(name) > 1)
            raise SourceError(
                f"source {spec} has two classes of one name, {repeated!r}; give each its own"
            )
        self.classes = classes
        self.class_names = class_names
        self._ids_hint = ids_hint
        self._encoded = encoded or self._encoded
        masks = _listed_masks(dataset)
        if self._columns and masks is not None:
            self._columns.append(masks)
        paths = self._paths
        # os.listdir has no order of its own
        self._order = np.argsort(np.array(paths)) if paths else np.arange(len(self))
        self._paths = [paths[index] for index in self._order] if paths else None
        self._ids = {index: index for index in range(classes)} if ids is None else dict(ids)
        self._ids.setdefault(IGNORED, IGNORED)
        self._table = np.full(max(self._ids) + 1, -1, np.int16)
        self._table[list(self._ids)] = list(self._ids.values())
        self.fingerprint = self._fingerprint()

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given.

        Raises:
            UnreadableSampleError: the image or the mask cannot be decoded.
            SourceError: a mask of another size than its image, of another kind, or with an id of no
                class.
        """
        image, mask = self._pair(index, contents)
        with self._reading(index), about_mask():  # a mask's file may be read only now
            ids = self._id_array(mask, index)
        check_size((ids.shape[1], ids.shape[0]), image.size, self._name(index))
        return Sample(image, Image.fromarray(self._classes_of(ids, index)))

    def files(self) -> Iterable[str]:
        """Return the paths of images and masks; none if it does not list both."""
        return super().files() if len(self._columns) == 2 else ()

    def contents(self, index: int) -> Contents | None:
        """Return the files of the image and the mask of sample `index`; None without both.

        Raises:
            UnreadableSampleError: they cannot be read.
        """
        return super().contents(index) if len(self._columns) == 2 else None

    def known_targets(self) -> None:
        """Return None: masks must be read."""

    def _place(self, index: int) -> int:
        return int(self._order[index])

    def _in_order(self, of_places: Numbers) -> Numbers:
        ordered: Numbers = of_places[self._order]
        return ordered

    def _classes_of(
        self, ids: "np.ndarray[Any, np.dtype[Any]]", index: int
    ) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        known = ids
        if ids.max() >= len(self._table) or ids.min() < 0:
            known = np.clip(ids, 0, len(self._table) - 1)
        classes = self._table[known]
        if known is not ids or classes.min() < 0:
            wrong = np.unique(ids[(ids != known) | (classes < 0)])
            class_ids = self._ids.keys() - {IGNORED}
            known_ids = ranges(class_ids, most_spans=len(class_ids))
            listed = ", ".join(map(str, wrong[:5]))
            raise SourceError(
                f"{self._name(index)} has a mask with id {listed}, which is no class: known are"
                f" {known_ids}, and {IGNORED} where there is none;"
                f" {self._ids_hint.format(wrong[0])}"
            )
        found: np.ndarray[Any, np.dtype[np.uint8]] = classes.astype(np.uint8)
        return found

    def _id_array(self, mask: Any, index: int) -> "np.ndarray[Any, np.dtype[Any]]":
        if isinstance(mask, Image.Image):
            array = self._ids_in(mask, index)
        else:
            array = mask.numpy(force=True) if isinstance(mask, torch.Tensor) else np.asarray(mask)
        if array.ndim == 3 and len(array) == 1:
            array = array[0]
        if array.ndim != 2 or array.dtype.kind not in "iu":
            hint = "; make it uint8" if array.ndim == 2 and array.dtype.kind in "bf" else ""
            raise SourceError(
                f"{self._name(index)} has {described(mask)} as its mask; a mask holds integers"
                f" [height, width]{hint}"
            )
        return array.astype(np.int64)

    def _ids_in(self, mask: Image.Image, index: int) -> "np.ndarray[Any, np.dtype[Any]]":
        """Return the ids in an image, which may be read only now."""
        if lossy := _lossy_format(mask):
            raise SourceError(f"{self._name(index)} has a mask that is {lossy}; {NOT_LOSSY}")
        if mask.mode not in _INDEXED and not mask.mode.startswith("I;"):
            raise SourceError(
                f"{self._name(index)} has a mask of mode {mask.mode}; it must hold one id per"
                " pixel, not colours"
            )
        array = np.asarray(mask)
        return array.astype(np.uint8) if array.dtype == bool else array

    def _fingerprint(self) -> str:
        head = (
            f"masks {type(self._dataset).__name__} {len(self)} {self.classes}"
            f" {sorted(self._ids.items())}\n"
        )
        digest = hashlib.sha256(head.encode())
        if self._paths:
            digest.update(path_bytes("\n".join(self._paths)))
            return digest.hexdigest()
        for part in self._probed():
            digest.update(part)
        return digest.hexdigest()

    def _probed(self) -> Iterator[bytes]:
        for index in np.linspace(0, len(self) - 1, min(len(self), _PROBED)).astype(int):
            image, mask = self.sample(int(index))
            assert isinstance(mask, Image.Image)
            yield f"{index} {image.mode} {image.size}".encode() + image.tobytes() + mask.tobytes()


@contextmanager
def about_mask(path: str = "") -> Iterator[None]:
    """Say that it is the mask of a sample, not its image, which cannot be decoded."""
    try:
        yield
    except Exception as error:
        if not is_of_decoding(error):
            raise
        reason = str(error)
        if not isinstance(error, UndecodableError):
            reason = f"{type(error).__name__}: {error}"
        mask = f"mask {path}" if path else "mask"
        raise UndecodableError(f"its {mask}: {reason}") from error


def _lossy_format(mask: Image.Image) -> str | None:
    """Return what kind of file an image comes from that does not keep its pixels, if it does."""
    if mask.format in ("JPEG", "MPO"):
        return "a JPEG"
    is_lossy_tiff = mask.format == "TIFF" and mask.info.get("compression") == "jpeg"
    return "a TIFF compressed as JPEG" if is_lossy_tiff else None


def open_own_masks(dataset: Any, spec: Spec) -> MaskSource:
    """Return the source of a user's own data set, which says its `classes` (a number or names) and,
    if need be, `ids`.

    Raises:
        SourceError: it does not say its classes, or ids that are no map.
    """
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, (int, np.integer)) and not isinstance(classes, bool):
        count = int(classes)
        names = None
    elif isinstance(classes, (list, tuple)):
        count = len(classes)
        names = tuple(map(str, classes))
    else:
        what = "does not say its classes"
        if classes is not None:
            what = f"says that its classes are {described(classes)}"
        raise SourceError(
            f"source {spec} {what}; give the data set an attribute `classes`: names or a number"
        )
    ids = getattr(dataset, "ids", None)
    return MaskSource(
        dataset,
        spec,
        classes=count,
        class_names=names,
        ids=None if ids is None else _checked_ids(ids, count, spec),
        ids_hint=(
            "give the right number of classes, or say in its attribute `ids` which id is which:"
            " {{{}: 255}} is an id without a class"
        ),
    )


def _checked_ids(ids: Any, classes: int, spec: Spec) -> dict[int, int]:
    """Return the class of each id as a data set says it.

    Raises:
        SourceError: it is no such map.
    """
    if not isinstance(ids, Mapping):
        raise SourceError(
            f"source {spec}: its ids are {described(ids)}; they must be a dict of id: class"
        )
    for key, target in ids.items():
        are_integers = all(isinstance(number, (int, np.integer)) for number in (key, target))
        if (
            not are_integers
            or not 0 <= key <= LARGEST_ID
            or not (0 <= target < classes or target == IGNORED)
        ):
            raise SourceError(
                f"source {spec}: its ids have {key!r}: {target!r}; ids are from 0 to {LARGEST_ID},"
                f" classes from 0 to {classes - 1}, or {IGNORED} for none"
            )
    return dict(ids)


def _listed_masks(dataset: Any) -> Paths | None:
    """Return the data set's own list of the files of its masks, if it keeps one."""
    for name in ("masks", "targets"):
        listing: Any = getattr(dataset, name, ())
        is_list = isinstance(listing, (list, tuple)) and len(listing) == len(dataset)
        if is_list and listed_path(listing[0]) is not None and are_files(listing):
            return cast(Paths, listing)
    return None
