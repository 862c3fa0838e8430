"""Source `tars`: webdataset's image tars on a local file system, read at random by offset.

    tars:/data/train-{000000..000099}.tar      tars:/data/train,target=label
    tars:/data/*.tar,classes=1000

A sample is the members of one key: its image (KEY.jpg) and its class index (KEY.cls, or with
`target=NAME` an integer in KEY.json).
"""

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import FileIO
from pathlib import Path

import numpy as np

from kdcache.config.spec import Spec, Value
from kdcache.config.user_functions import check_options
from kdcache.errors import SourceError, UsageError
from kdcache.runtime.console import say
from kdcache.runtime.images import decode_image
from kdcache.runtime.text_files import path_bytes
from kdcache.sources.files import NO_FILE, Numbers
from kdcache.sources.folder_files import and_more, count_kinds, tell_passed_over
from kdcache.sources.protocol import Contents, Sample, Source, named
from kdcache.sources.tar_index import Shard, index_tar

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NUM_OPEN = 128
_LARGEST_RANGE = 1_000_000
_LIKE_TARS = (
    ".tar",
    ".tgz",
    ".tbz2",
    ".txz",
    ".tar.gz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
    ".tar.lz4",
)


class TarSource:
    """The samples of some tars, in the order of their names and of the members.

    Keys are `SHARD/KEY`, where SHARD is the tar's name below the folder that all have in common.
    The fingerprint covers keys, targets and sizes of the images, wherever the tars lie; no image is
    read for it.
    """

    def __init__(self, shards: Sequence[Shard], spec: Spec, classes: int | None = None) -> None:
        self.spec = str(spec)
        self._shards = list(shards)
        self._names = _relative_names([shard.path for shard in shards])
        self._starts = np.cumsum([0, *(len(shard.keys) for shard in shards)])
        self.classes = classes or 1 + max(int(shard.targets.max()) for shard in shards)
        self._check_targets()
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self._starts[-1])

    def key(self, index: int) -> str:
        """Return `SHARD/KEY` of sample `index`."""
        shard, at = self._locate(index)
        return f"{self._names[shard]}/{self._shards[shard].keys[at]}"

    def keys(self) -> Iterator[str]:
        """Yield the names of all samples, in order."""
        for name, shard in zip(self._names, self._shards, strict=True):
            for key in shard.keys:
                yield f"{name}/{key}"

    def known_targets(self) -> Numbers:
        """Return the class of each sample, uint32 `[samples]`."""
        targets: Numbers = np.concatenate([shard.targets for shard in self._shards])
        return targets.astype(np.uint32)

    def file_sizes(self) -> Numbers:
        """Return the bytes of each image, uint32 `[samples, 1]`, as the tars' indexes tell."""
        sizes = np.concatenate([shard.sizes for shard in self._shards])[:, None]
        bounded: Numbers = np.minimum(sizes, NO_FILE - 1).astype(np.uint32)
        return bounded

    def files(self) -> list[str]:
        """Return the paths of the tars."""
        return [shard.path for shard in self._shards]

    def contents(self, index: int) -> Contents:
        """Return the file of the image of sample `index`, see `stored`."""
        return (self.stored(index),)

    def sample(self, index: int, contents: Contents | None = None) -> Sample:
        """Return sample `index`, decoded from its file's `contents` where they are given.

        Raises:
            UnreadableSampleError: the image cannot be decoded.
            SourceError: its tar is gone, or has changed since the source was opened.
        """
        number, at = self._locate(index)
        data = contents[0] if contents else self.stored(index)
        with named(self.spec, index, self.key):
            return Sample(decode_image(data), int(self._shards[number].targets[at]))

    def stored(self, index: int) -> bytes:
        """Return the file of the image of sample `index`.

        Raises:
            UnreadableSampleError: it cannot be read.
            SourceError: its tar is gone, or has changed since the source was opened.
        """
        number, at = self._locate(index)
        shard = self._shards[number]
        file = _opened(shard.path, shard.stamp)
        with named(self.spec, index, self.key):
            data = os.pread(file.fileno(), shard.sizes[at], shard.offsets[at])
        if len(data) < shard.sizes[at]:
            raise SourceError(
                f"tar {shard.path} was cut short while it was read; start again, and leave the tars"
                " alone meanwhile"
            )
        return data

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _check_targets(self) -> None:
        for number, shard in enumerate(self._shards):
            for at in np.flatnonzero(shard.targets >= self.classes)[:1].tolist():
                raise SourceError(
                    f"sample {self._starts[number] + at} ({self._names[number]}/{shard.keys[at]})"
                    f" of {self.spec} has target {shard.targets[at]}; it must be a class index from"
                    f" 0 to {self.classes - 1}"
                )

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(f"tars {len(self)} {self.classes}\n".encode())
        for name, shard in zip(self._names, self._shards, strict=True):
            digest.update(path_bytes(f"{name}\0{len(shard.keys)}\n"))
            for array in (shard.keys.text, shard.targets, shard.sizes):
                digest.update(np.ascontiguousarray(array).data.cast("B"))
        return digest.hexdigest()


def open_tars(spec: Spec) -> Source:
    """Return the samples of the tars that a folder, a pattern with `*` or with `{000..099}` names.

    Raises:
        SourceError: a tar is missing, cut short or otherwise not what index_tar takes.
        UsageError: an unknown option, or an address that is no local file.
    """
    check_options(_options, spec, "source")
    classes, target = _options(**spec.options)
    shards = [index_tar(path, target) for path in find_tars(spec.arg or "")]
    passed_over: Counter[str] = Counter()
    for shard in shards:
        passed_over += shard.passed_over
    tell_passed_over(f"tars {spec.arg}", passed_over, "neither images nor targets")
    return TarSource(shards, spec, classes)


def find_tars(pattern: str) -> list[str]:
    """Return the tars in a folder, or that a pattern names, sorted as the pattern is written.

    Raises:
        SourceError: one that is named is missing, or none fits.
        UsageError: an address that is no local file.
    """
    if pattern.startswith("pipe:") or "://" in pattern:
        raise UsageError(
            f"source tars reads local files only, not {pattern!r}; copy the tars to a disk or mount"
        )
    try:
        found: list[str] = []
        for piece in _expand(pattern):
            found += _matches(piece)
        paths = list(dict.fromkeys(found))
    except OSError as error:
        raise SourceError(
            f"tars {pattern!r} cannot be listed: {error.strerror} ({error.filename})"
        ) from error
    if not paths:
        hint = ""
        if below := _folder_of_tars(pattern):
            hint = f"; {below} holds tars"
        elif pattern and Path(pattern).is_dir():
            hint = f"; a folder of images is imagefolder:{pattern}"
        raise SourceError(
            f"tars {pattern!r} names no tar; give a folder of *.tar, a tar, or a pattern with * or"
            f" {{000..099}}{hint}"
        )
    _check_unique(paths)
    return paths


def _options(classes: Value | None = None, target: Value = "cls") -> tuple[int | None, str]:
    if classes is not None and (not isinstance(classes, int) or classes < 1):
        raise UsageError(
            f"option classes of source tars is {classes!r}; it must be a number of classes"
        )
    return classes, str(target)


def _expand(pattern: str) -> Iterator[str]:
    match = _RANGE.search(pattern)
    if match is None:
        yield pattern
        return
    first = int(match[1])
    last = int(match[2])
    if not 0 <= last - first < _LARGEST_RANGE:
        raise UsageError(
            f"range {match[0]} of source tars must go up, by less than {_LARGEST_RANGE}"
        )
    for number in range(first, last + 1):
        yield from _expand(
            f"{pattern[: match.start()]}{number:0{len(match[1])}}{pattern[match.end() :]}"
        )


def _matches(piece: str) -> list[str]:
    if not piece:
        return []
    if Path(piece).is_dir():
        return _tars_in(piece)
    if Path(piece).exists() or not glob.has_magic(piece):
        if not Path(piece).is_file():
            raise SourceError(f"tars: {piece!r} does not exist or is no file")
        return [piece]
    return sorted(glob.glob(piece))  # noqa: PTH207 # of absolute patterns too


def _tars_in(folder: str) -> list[str]:
    """Return the tars in a folder; refuse files that look like tars and would be left out."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    tars = [name for name in names if name.endswith(".tar") and not name.startswith(".")]
    others = set(names).difference(tars)
    unlisted = sorted(name for name in others if name.lower().endswith(_LIKE_TARS))
    if unlisted:
        first = os.path.join(folder, unlisted[0])  # noqa: PTH118
        raise SourceError(
            f"tars: {first} would be left out{and_more(len(unlisted))}: a folder's tars are "
            "*.tar, not compressed and not hidden; unpack, rename or move it"
        )
    files = [name for name in others if not os.path.isdir(os.path.join(folder, name))]  # noqa: PTH112, PTH118
    tell_passed_over(f"tars {folder}", count_kinds(files), "no tars")
    if tars and (below := _folder_of_tars(folder)):
        say(
            f"note: tars {folder}: {below} holds tars too, which are passed over;"
            f" tars:{folder}/*/*.tar takes those"
        )
    return [os.path.join(folder, name) for name in tars]  # noqa: PTH118


def _folder_of_tars(folder: str) -> Path | None:
    """Return a folder in a folder that holds tars, if there is one."""
    path = Path(folder)
    if not folder or not path.is_dir():
        return None
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir())
    return next((entry for entry in folders if any(entry.glob("*.tar"))), None)


def _check_unique(paths: Sequence[str]) -> None:
    """Refuse one tar under two names, by a link: its samples would come twice."""
    first: dict[tuple[int, int], str] = {}
    for path in paths:
        status = os.stat(path)  # noqa: PTH116
        before = first.setdefault((status.st_dev, status.st_ino), path)
        # some file systems give many files one number
        if before != path and os.path.realpath(before) == os.path.realpath(path):
            raise SourceError(
                f"tars {before} and {path} are one file, by a link: its samples would come twice;"
                " remove one"
            )


def _relative_names(paths: Sequence[str]) -> list[str]:
    """Return the paths below the folder that all have in common, without .tar."""
    absolute = [os.path.abspath(path) for path in paths]  # noqa: PTH100 # links keep their names
    common = os.path.commonpath([os.path.dirname(path) for path in absolute])  # noqa: PTH120
    return [os.path.relpath(path, common).removesuffix(".tar") for path in absolute]


@lru_cache(maxsize=_NUM_OPEN)
def _opened(path: str, stamp: tuple[int, int]) -> FileIO:
    """Return the tar, open; one that is dropped from the cache is closed when its last reader has
    let go of it."""
    try:
        file = FileIO(path)
    except OSError as error:
        raise SourceError(f"tar {path} cannot be read: {error.strerror or error}") from error
    stat = os.fstat(file.fileno())
    if (stat.st_size, stat.st_mtime_ns) != stamp:
        file.close()
        raise SourceError(
            f"tar {path} has changed since it was indexed; start again, and leave the tars alone"
            " meanwhile"
        )
    return file
