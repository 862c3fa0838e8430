"""Which files below a folder are images and their masks, by two patterns of names."""

from kdcache.errors import SourceError
from kdcache.sources.folder_files import and_more, files_below, is_hidden, looks_like_image


class Pattern:
    """`before{}after`, as a path below a folder."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._before, self._after = text.split("{}")
        self.folder = self._before.rpartition("/")[0]
        self._stem, _, self._extension = self._after.rpartition(".")

    def path(self, name: str) -> str:
        """Return the path of the file of this name."""
        return f"{self._before}{name}{self._after}"

    def name(self, path: str) -> str | None:
        """Return what stands for `{}` in a path; None if it does not fit."""
        if not (path.startswith(self._before) and path.endswith(self._after)):
            return None
        start = len(self._before)
        end = len(path) - len(self._after)
        if end <= start:
            return None
        return path[start:end]

    def almost(self, path: str) -> str | None:
        """Return what would stand for `{}` if the path of an image had this pattern's extension, in
        its case."""
        stem, _, _ = path.rpartition(".")
        ending = self._stem.lower()
        if not (path.startswith(self._before) and stem.lower().endswith(ending)):
            return None
        if not looks_like_image(path):
            return None
        start = len(self._before)
        end = len(stem) - len(ending)
        return stem[start:end] or None


class Pairs:
    """What two patterns find below a folder."""

    def __init__(self, root: str, images: Pattern, masks: Pattern) -> None:
        self._root = root
        self._patterns = (images, masks)
        image_files = files_below(root, images.folder)
        mask_files = files_below(root, masks.folder)
        self.images = _named(image_files, images)
        self._masks = _named(mask_files, masks)
        paired_files = {*self.images.values(), *self._masks.values()}
        self.others = sorted({*image_files, *mask_files} - paired_files)
        """Files that are neither."""

    def check(self) -> None:
        """Check that each image has its mask, and each mask its image, and that none is left out
        for its name.

        Raises:
            SourceError: one has not, or is.
        """
        self._require_none_hidden([*self.images.values(), *self._masks.values()])
        if not self.images:
            return
        images, masks = self._patterns
        self._check_partners("image", self.images, "mask", masks, self._masks)
        self._check_partners("mask", self._masks, "image", images, self.images)
        if not _share_folder(images.folder, masks.folder):
            self._check_unlisted(images)
            self._check_unlisted(masks)

    def check_images(self) -> None:
        """Check that no image is left out for its name, whatever masks there are.

        Raises:
            SourceError: one is.
        """
        self._require_none_hidden([*self.images.values()])
        images, masks = self._patterns
        if self.images and not _share_folder(images.folder, masks.folder):
            self._check_unlisted(images)

    def _require_none_hidden(self, paths: list[str]) -> None:
        for path in sorted(paths):
            if is_hidden(path):
                raise SourceError(
                    f"segfolder {self._root!r}: {path} is hidden, as editors and systems leave"
                    " files; remove it"
                )

    def _check_partners(
        self,
        kind: str,
        paths: dict[str, str],
        other_kind: str,
        pattern: Pattern,
        partners: dict[str, str],
    ) -> None:
        lacking = sorted(paths.keys() - partners.keys())
        if not lacking:
            return
        name = lacking[0]
        near = self._near(pattern, name)
        way_out = f"add it, or remove the {kind}"
        if near is not None:
            way_out = (
                f"{near} is there, and the pattern is {pattern.text}: rename it, or convert it"
            )
        raise SourceError(
            f"segfolder {self._root!r}: {kind} {paths[name]}{and_more(len(lacking))} has no"
            f" {other_kind} {pattern.path(name)}; {way_out}"
        )

    def _near(self, pattern: Pattern, name: str) -> str | None:
        """Return a file that is neither, and has almost the name that a pattern asks for."""
        for path in self.others:
            if pattern.almost(path) == name:
                return path
        return None

    def _check_unlisted(self, pattern: Pattern) -> None:
        """Refuse files that a pattern leaves out for their extension, in a folder that holds
        nothing but images or masks."""
        unlisted = []
        for path in self.others:
            name = pattern.almost(path)
            if name is not None:
                unlisted.append(path)
        if unlisted:
            raise SourceError(
                f"segfolder {self._root!r}: {unlisted[0]} would be left"
                f" out{and_more(len(unlisted))}, the pattern is {pattern.text}; rename or"
                " convert it, or move it out of the folder"
            )


def _named(paths: list[str], pattern: Pattern) -> dict[str, str]:
    """Return the files that fit a pattern, by what stands for `{}`."""
    paths_by_name = {}
    for path in paths:
        name = pattern.name(path)
        if name is not None:
            paths_by_name[name] = path
    return paths_by_name


def _share_folder(first: str, second: str) -> bool:
    """Return whether one of two folders is the other, or in it; the root is named by nothing."""
    if not first or not second:
        return True
    first_start = f"{first}/"
    second_start = f"{second}/"
    return first_start.startswith(second_start) or second_start.startswith(first_start)
