"""Source `segfolder`: images and masks below one folder, tied by a part of their names.

    segfolder:/data,classes=11
    segfolder:/data,images=photos/{}.jpg,masks=labels/{}_ids.png,classes=names.txt,ids=ids.csv

`{}` stands for the part that an image and its mask have in common; it may hold folders.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kdcache.config.fields import build
from kdcache.config.spec import Spec
from kdcache.errors import SourceError, UsageError
from kdcache.runtime.console import say
from kdcache.runtime.images import decode_image, file_bytes, read_image
from kdcache.sources.class_files import read_class_names, read_ids
from kdcache.sources.folder_files import count_kinds, not_listed, tell_passed_over
from kdcache.sources.imagefolder import are_splits
from kdcache.sources.mask_pairs import Pairs, Pattern
from kdcache.sources.masks import NOT_LOSSY, MaskSource, about_mask
from kdcache.sources.protocol import Contents, Source


@dataclass(frozen=True, kw_only=True)
class SegFolderOptions:
    """The options of a spec."""

    classes: int | str
    """How many, or a text file with a name on each line."""
    images: str = "images/{}.jpg"
    masks: str = "masks/{}.png"
    ids: str | None = None
    """A file of lines `id,class`, where ids are not classes; the class by number or name, 255 or
    nothing for none."""

    def __post_init__(self) -> None:
        for name in ("images", "masks"):
            if getattr(self, name).count("{}") != 1:
                raise UsageError(
                    f"segfolder: {name}={getattr(self, name)} must hold {{}} once, the part that"
                    " both names share"
                )
        if self.masks.lower().endswith((".jpg", ".jpeg")):
            raise UsageError(f"segfolder: masks={self.masks} are JPEGs; {NOT_LOSSY}")


class SegFolder:
    """The pairs of an image and a mask below a folder."""

    def __init__(self, root: str, images: str, masks: str, *, needs_masks: bool = True) -> None:
        """List the pairs.

        Args:
            root: the folder.
            images: a pattern of paths below it, with `{}`.
            masks: likewise.
            needs_masks: whether they are looked at; else an image may lack its own.

        Raises:
            SourceError: an image without a mask or the other way round, or what looks like either
                and is neither.
        """
        self.root = root
        pairs = Pairs(root, Pattern(images), Pattern(masks))
        if needs_masks:
            pairs.check()
        else:
            pairs.check_images()
        self.images: list[str] = []
        self.masks: list[str] = []
        for name in sorted(pairs.images):
            image = images.replace("{}", name)
            mask = masks.replace("{}", name)
            self.images.append(os.path.join(root, image))  # noqa: PTH118 # as in imagefolder
            self.masks.append(os.path.join(root, mask))  # noqa: PTH118
        self.passed_over = count_kinds(pairs.others)
        """Number of files that are neither, by extension."""

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, Image.Image]:
        """Return an image and its mask, as stored."""
        image = read_image(self.images[index])
        with about_mask(self.masks[index]):
            return image, read_image(self.masks[index])

    def item_of(self, index: int, contents: Contents) -> tuple[Image.Image, Image.Image]:
        """Return the image and the mask that two files hold, as stored."""
        image = decode_image(contents[0])
        with about_mask(self.masks[index]):
            return image, decode_image(contents[1])

    def encoded(self, index: int) -> bytes:
        """Return the file of an image."""
        return file_bytes(self.images[index])


def open_segfolder(spec: Spec, *, needs_targets: bool = True) -> Source:
    """Return the images and masks below a folder.

    Args:
        spec: of the source.
        needs_targets: whether masks are looked at; else an image may lack its own.

    Raises:
        SourceError: the folder is absent, or holds no image of that name, an image or a mask
            without the other, or what looks like one and would be left out.
        UsageError: patterns without `{}`, or files of classes or ids that cannot be understood.
    """
    options, folder = checked_segfolder(spec)
    names: tuple[str, ...] | None = None
    if isinstance(options.classes, int):
        num_classes = options.classes
    else:
        names = read_class_names(options.classes)
        num_classes = len(names)
    ids = None
    if options.ids is not None:
        ids = read_ids(options.ids, num_classes, names)
    dataset = _listed(folder, options, needs_masks=needs_targets)
    name = f"segfolder {folder}"
    tell_passed_over(name, dataset.passed_over, "neither images nor masks")
    _tell_splits(name, folder, options, dataset.images)
    return MaskSource(
        dataset,
        spec,
        classes=num_classes,
        class_names=names,
        ids=ids,
        ids_hint=_ids_hint(options.ids),
    )


def checked_segfolder(spec: Spec) -> tuple[SegFolderOptions, str]:
    """Return the options and the folder of a spec.

    Raises:
        SourceError: the folder is absent.
        UsageError: an unknown option, no classes, or patterns without `{}`.
    """
    example = f"{spec.name}:{spec.arg or 'PATH'},classes=19"
    wish = f"classes, the number of them or a file with their names; write {example}"
    options = build(SegFolderOptions, spec.options, f"source {spec.name}", called=lambda _: wish)
    if spec.arg is None or not Path(spec.arg).is_dir():
        raise SourceError(
            f"segfolder {spec.arg!r} is not a folder; give the one that holds images and masks"
        )
    return options, spec.arg


def _listed(root: str, options: SegFolderOptions, *, needs_masks: bool) -> SegFolder:
    """Return the pairs below a folder.

    Raises:
        SourceError: there are none, or they cannot be listed.
    """
    try:
        dataset = SegFolder(root, options.images, options.masks, needs_masks=needs_masks)
    except OSError as error:
        raise not_listed(f"segfolder {root!r}", error) from error
    if len(dataset) == 0:
        raise SourceError(
            f"segfolder {root!r} holds no {options.images}; say how its images are called:"
            " images=photos/{}.png"
        )
    return dataset


def _tell_splits(name: str, root: str, options: SegFolderOptions, paths: list[str]) -> None:
    """Say that the images are of train and val together, if their folders are called so."""
    base = os.path.join(root, Pattern(options.images).folder, "")  # noqa: PTH118
    folders = set()
    for path in paths:
        folder, _, _ = path.removeprefix(base).partition("/")
        folders.add(folder)
    if are_splits(folders):
        parts = sorted(folders)
        last = f"{parts[-1]}/{{}}"
        images = options.images.replace("{}", last)
        masks = options.masks.replace("{}", last)
        say(
            f"note: {name} takes the images of {', '.join(parts)} together; if these are"
            f" parts of the data, name one of them: images={images},masks={masks}"
        )


def _ids_hint(path: str | None) -> str:
    if path is None:
        return (
            "give the right number of classes, or ids=FILE with a line ID,CLASS for every id:"
            " `{},255` is of one without a class"
        )
    return f"add a line for every id to {path}: `{{0}},CLASS`, or `{{0}},255` if it has no class"
