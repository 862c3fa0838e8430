"""Map-style data sets of (image, mask) pairs as sources: a class index for each pixel; and masks as files."""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from kdcache.errors import SourceError
from kdcache.shapes import IGNORED
from kdcache.sources.dataset import MapStyle, as_pil
from kdcache.sources.files import Numbers, Paths, are_files, listed_path
from kdcache.sources.images import open_image
from kdcache.sources.protocol import Contents, Sample, named
from kdcache.spec import Spec

_INDEXED = ("L", "P", "1", "I")  # modes whose pixels are numbers; also I;16 and the like
_PROBED = 64


class MaskSource(MapStyle):
    """A map-style data set of (image, mask) pairs as a source.

    Samples come in the order of their paths, or of the data set where it lists none. The fingerprint covers the number of
    samples, the listed paths, and which ids are which classes; of a data set that lists no files, 64 samples.
    """

    task = "segmentation"

    def __init__(
        self,
        dataset: Any,
        spec: Spec,
        *,
        classes: int,
        class_names: tuple[str, ...] | None = None,
        ids: Mapping[int, int] | None = None,
        encoded: Callable[[int], bytes | None] | None = None,
    ) -> None:
        """Take the data set.

        Args:
            dataset: of (image, mask) pairs.
            spec: that it was opened from.
            classes: how many there are.
            class_names: their names.
            ids: class of each id that its masks hold, 255 for none; by default ids are classes, and 255 none.
            encoded: the file of an image of the data set, see `MapStyle.stored`; by default its own, if it has such a method.

        Raises:
            SourceError: no sample, or a number of classes that masks cannot hold.
        """
        super().__init__(dataset, spec)
        if not 2 <= classes <= IGNORED:
            raise SourceError(f"source {spec} has {classes} classes; masks hold 2 (what is nothing else is one) to {IGNORED}")
        self.classes, self.class_names = classes, class_names
        self._encoded = encoded or self._encoded
        masks = _listed_masks(dataset)
        if self._columns and masks is not None:
            self._columns.append(masks)
        paths = self._paths
        self._order = np.argsort(np.array(paths)) if paths else np.arange(len(dataset))  # os.listdir has no order of its own
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
            SourceError: a mask of another size than its image, of another kind, or with an id of no class.
        """
        with named(self.spec, index, self.key):
            image, mask = self._item(index, contents)
            image = as_pil(image)
            image.load()
            ids = self._id_array(mask, index)
        _check_size((ids.shape[1], ids.shape[0]), image.size, self._name(index))
        return Sample(image, Image.fromarray(self._classes_of(ids, index)))

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

    def _classes_of(self, ids: "np.ndarray[Any, np.dtype[Any]]", index: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        known = ids if ids.max() < len(self._table) and ids.min() >= 0 else np.clip(ids, 0, len(self._table) - 1)
        classes = self._table[known]
        if known is not ids or classes.min() < 0:
            wrong = np.unique(ids[(ids != known) | (classes < 0)])
            there = _ranges({one: one for one in self._ids if one != IGNORED})
            raise SourceError(
                f"{self._name(index)} has a mask with id {', '.join(map(str, wrong[:5]))}, which is no class: known are "
                f"{there}, and {IGNORED} where there is none; give the right number of classes, or say which id is which (ids)"
            )
        found: np.ndarray[Any, np.dtype[np.uint8]] = classes.astype(np.uint8)
        return found

    def _id_array(self, mask: Any, index: int) -> "np.ndarray[Any, np.dtype[Any]]":
        if isinstance(mask, Image.Image) and mask.mode not in _INDEXED and not mask.mode.startswith("I;"):
            raise SourceError(f"{self._name(index)} has a mask of mode {mask.mode}; it must hold one id per pixel, not colours")
        array = mask.numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
        array = array[0] if array.ndim == 3 and len(array) == 1 else array
        if array.ndim != 2 or array.dtype.kind not in "biu":
            raise SourceError(
                f"{self._name(index)} has a target of {array.dtype} {array.shape}; a mask holds integers [height, width]"
            )
        return array.astype(np.int64)

    def _name(self, index: int) -> str:
        return f"sample {index} ({self.key(index)}) of {self.spec}"

    def _fingerprint(self) -> str:
        head = f"masks {type(self._dataset).__name__} {len(self)} {self.classes} {sorted(self._ids.items())}\n"
        digest = hashlib.sha256(head.encode())
        for part in ["\n".join(self._paths).encode()] if self._paths else self._probed():
            digest.update(part)
        return digest.hexdigest()

    def _probed(self) -> Iterator[bytes]:
        for index in np.linspace(0, len(self) - 1, min(len(self), _PROBED)).astype(int):
            image, mask = self.sample(int(index))
            assert isinstance(mask, Image.Image)
            yield f"{index} {image.mode} {image.size}".encode() + image.tobytes() + mask.tobytes()


def encode_mask(mask: Image.Image) -> bytes:
    """Return a mask of classes as a PNG of 8-bit grey levels; equal masks are equal bytes, with one release of Pillow."""
    out = io.BytesIO()
    Image.fromarray(np.asarray(mask, np.uint8)).save(out, "PNG", compress_level=6)  # without what the mask's file said besides
    return out.getvalue()


def decode_mask(data: bytes, size: tuple[int, int], classes: int, name: str) -> Image.Image:
    """Return the mask that `encode_mask` has made of a mask of `classes`, for an image of `size`.

    Args:
        data: the file.
        size: width and height of the image; a mask of another one is refused before it is decoded.
        classes: how many there are.
        name: of the sample, for messages.

    Raises:
        OSError: (or another of UNREADABLE) it cannot be decoded.
        SourceError: a mask of another size or mode, or with a class that there is not.
    """
    mask = open_image(data, formats=["PNG"])
    _check_size(mask.size, size, name)
    if mask.mode != "L":
        raise SourceError(f"{name} has a mask of mode {mask.mode}; a stored mask holds 8-bit grey levels (L), the classes")
    mask.load()
    pixels = np.asarray(mask)
    wrong = np.unique(pixels[(pixels >= classes) & (pixels != IGNORED)])
    if len(wrong):
        found = ", ".join(map(str, wrong[:5]))
        raise SourceError(f"{name} has a mask with class {found}; known are 0 to {classes - 1}, and {IGNORED} for none")
    return mask


def _check_size(mask: tuple[int, int], image: tuple[int, int], name: str) -> None:
    if mask != image:
        raise SourceError(
            f"{name} has a mask of {mask[0]}x{mask[1]} pixels and an image of {image[0]}x{image[1]}; both must be of one size: "
            "mend the pair, or leave it out of the source"
        )


def open_own_masks(dataset: Any, spec: Spec) -> MaskSource:
    """Return the source of a user's own data set, which says its `classes` (a number or names) and, if need be, `ids`.

    Raises:
        SourceError: it does not say its classes.
    """
    classes = getattr(dataset, "classes", None)
    if not isinstance(classes, (int, list, tuple)):
        raise SourceError(
            f"source {spec} does not say its classes; give the data set an attribute `classes` (names or a number)"
        )
    count, names = (classes, None) if isinstance(classes, int) else (len(classes), tuple(map(str, classes)))
    return MaskSource(dataset, spec, classes=count, class_names=names, ids=getattr(dataset, "ids", None))


def _listed_masks(dataset: Any) -> Paths | None:
    """Return the data set's own list of the files of its masks, if it keeps one."""
    for name in ("masks", "targets"):
        listing: Any = getattr(dataset, name, ())
        is_list = isinstance(listing, (list, tuple)) and len(listing) == len(dataset)
        if is_list and listed_path(listing[0]) is not None and are_files(listing):
            return cast(Paths, listing)
    return None


def _ranges(numbers: Mapping[int, int]) -> str:
    """Return the numbers as `0 to 10, 255`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(low) if low == high else f"{low} to {high}" for low, high in parts)
