"""Map-style data sets of (image, mask) pairs as sources: a class index for each pixel; and masks as
files."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from PIL import Image

from kdcache.config.spec import Spec
from kdcache.deferred import Tensor
from kdcache.errors import SourceError
from kdcache.runtime.generators import seeded_generators
from kdcache.runtime.image_items import described
from kdcache.runtime.images import UndecodableError, is_of_decoding
from kdcache.runtime.text_files import path_bytes
from kdcache.runtime.wording import named, ranges
from kdcache.shapes import IGNORED
from kdcache.sources.dataset import MapStyle
from kdcache.sources.files import Numbers, Paths, are_files, spread_places
from kdcache.sources.listings import Array, lists_files, require_unique_names
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
    _target_name = "mask"

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
        _require_classes(classes, class_names or (), spec)
        self.classes = classes
        self.class_names = class_names
        self._ids_hint = ids_hint
        self._encoded = encoded or self._encoded
        masks = _listed_masks(dataset)
        if self._columns and masks is not None:
            self._columns.append(masks)
        self._order = np.arange(len(self))
        if self._paths:
            paths = self._paths
            # os.listdir has no order of its own
            self._order = np.argsort(np.array(paths))
            self._paths = [paths[place] for place in self._order]
        if ids is None:
            ids = {index: index for index in range(classes)}
        self._ids = dict(ids)
        self._ids.setdefault(IGNORED, IGNORED)
        self._table = _class_table(self._ids)
        self.fingerprint = self._fingerprint()

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its files' `contents` where they are given.

        Raises:
            UnreadableSampleError: the image or the mask cannot be decoded.
            SourceError: a mask of another size than its image, of another kind, or with an id of no
                class.
        """
        name = self._name(index)
        image, mask = self._pair(index, name, contents)
        # a mask's file may be read only now
        with self._calling(name), self._reading(index), about_mask():
            ids = self._id_array(mask, index)
        height, width = ids.shape
        check_size((width, height), image.size, name)
        classes = self._classes_of(ids, index)
        return Sample(image, Image.fromarray(classes))

    def files(self) -> Iterable[str]:
        """Return the paths of images and masks; none if it does not list both."""
        if len(self._columns) < 2:
            return ()
        return super().files()

    def contents(self, index: int) -> Contents | None:
        """Return the files of the image and the mask of sample `index`; None without both.

        Raises:
            UnreadableSampleError: they cannot be read.
        """
        if len(self._columns) < 2:
            return None
        return super().contents(index)

    def known_targets(self) -> None:
        """Return None: masks must be read."""

    def _place(self, index: int) -> int:
        return int(self._order[index])

    def _in_order(self, of_places: Numbers) -> Numbers:
        ordered: Numbers = of_places[self._order]
        return ordered

    def _classes_of(self, ids: Array, index: int) -> "np.ndarray[Any, np.dtype[np.uint8]]":
        places = ids
        last = len(self._table) - 1
        if ids.max() > last or ids.min() < 0:
            places = np.clip(ids, 0, last)
        classes: Array = self._table[places]
        if places is not ids or classes.min() < 0:
            is_wrong = (ids != places) | (classes < 0)
            wrong_ids = np.unique(ids[is_wrong])
            raise SourceError(self._wrong_ids_message(wrong_ids, index))
        return classes.astype(np.uint8)

    def _wrong_ids_message(self, wrong_ids: Array, index: int) -> str:
        ids = named(wrong_ids.tolist(), "id")
        which = "which is no class"
        if len(wrong_ids) > 1:
            which = "which are no classes"
        class_ids = self._ids.keys() - {IGNORED}
        known_ids = ranges(class_ids, most_spans=len(class_ids))
        return (
            f"{self._name(index)} has a mask with {ids}, {which}: known are"
            f" {known_ids}, and {IGNORED} where there is none;"
            f" {self._ids_hint.format(wrong_ids[0])}"
        )

    def _id_array(self, mask: Any, index: int) -> Array:
        array: Array
        if isinstance(mask, Image.Image):
            array = self._ids_in(mask, index)
        elif isinstance(mask, Tensor):
            array = mask.numpy(force=True)
        else:
            array = np.asarray(mask)
        if array.ndim == 3 and len(array) == 1:
            array = array[0]
        if array.ndim != 2 or array.dtype.kind not in "iu":
            hint = ""
            if array.ndim == 2 and array.dtype.kind in "bf":
                hint = "; make it uint8"
            raise SourceError(
                f"{self._name(index)} has {described(mask)} as its mask; a mask holds integers"
                f" [height, width]{hint}"
            )
        return array.astype(np.int64)

    def _ids_in(self, mask: Image.Image, index: int) -> Array:
        """Return the ids in an image, which may be read only now."""
        if lossy := _lossy_format(mask):
            raise SourceError(f"{self._name(index)} has a mask that is {lossy}; {NOT_LOSSY}")
        if mask.mode not in _INDEXED and not mask.mode.startswith("I;"):
            raise SourceError(
                f"{self._name(index)} has a mask of mode {mask.mode}; it must hold one id per"
                " pixel, not colours"
            )
        array = np.asarray(mask)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        return array

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
        for index in spread_places(len(self), _PROBED):
            with seeded_generators(index):  # those that are drawn are drawn alike each time
                image, mask = self.sample(index)
            assert isinstance(mask, Image.Image)
            head = f"{index} {image.mode} {image.size}"
            yield head.encode() + image.tobytes() + mask.tobytes()


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
        mask = "mask"
        if path:
            mask = f"mask {path}"
        raise UndecodableError(f"its {mask}: {reason}") from error


def _lossy_format(mask: Image.Image) -> str | None:
    """Return what kind of file an image comes from that does not keep its pixels, if it does."""
    if mask.format in ("JPEG", "MPO"):
        return "a JPEG"
    if mask.format == "TIFF" and mask.info.get("compression") == "jpeg":
        return "a TIFF compressed as JPEG"
    return None


def _class_table(ids: Mapping[int, int]) -> Array:
    """Return the class of each id up to the largest, int16; -1 of ids that are none."""
    largest_id = max(ids)
    table = np.full(largest_id + 1, -1, np.int16)
    table[list(ids)] = list(ids.values())
    return table


def _require_classes(count: int, names: Sequence[str], spec: Spec) -> None:
    """Raise a SourceError if masks cannot hold so many classes, or two have one name."""
    if not 2 <= count <= IGNORED:
        raise SourceError(
            f"source {spec} has {count} classes; masks hold 2 (what is nothing else is one)"
            f" to {IGNORED}"
        )
    require_unique_names(names, str(spec))


def _listed_masks(dataset: Any) -> Paths | None:
    """Return the data set's own list of the files of its masks, if it keeps one."""
    for name in ("masks", "targets"):
        listing: Any = getattr(dataset, name, ())
        if lists_files(listing, dataset) and are_files(listing):
            return cast(Paths, listing)
    return None
