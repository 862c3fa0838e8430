"""The data that a training is most likely evaluated on: what lies beside its training data."""

import os
from collections.abc import Collection
from pathlib import Path

from kdcache.config.spec import Spec, Value, parse_spec
from kdcache.sources.bare_paths import spec_of_path
from kdcache.sources.registry import OPENERS

_TRAIN = "train"
_SPLIT = "split"
_OTHERS = ("val", "valid", "validation", "test")
"""What stands in the place of `train` in the names of folders and files, the likeliest first."""
_IN_ONE_ARCHIVE = frozenset(("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST"))
"""Sets of torchvision that come with their test split, `train=false`."""


def evaluation_split(text: str, splits: Collection[str] = ()) -> str | None:
    """Return the spec of data to evaluate on, from that of data to train on; None if none is known.

    It is the fold that was left out, the test split of a set that comes with it, or what is called
    `val` or `test` where this is called `train`: a split of the same data set, or a folder or file.
    Folders are looked at, nothing is opened.

    Args:
        text: spec of the data to train on.
        splits: that its data set holds, as its source tells.

    Raises:
        UsageError: no spec, or a path that is not there.
    """
    spec = spec_of_path(text, OPENERS) or parse_spec(text)
    if spec.name not in OPENERS:
        return None
    if "except_fold" in spec.options:
        return text.replace("except_fold=", "fold=")
    if spec.name == "digits":
        return "digits:test" if spec.arg in (None, _TRAIN) else None
    if spec.name == "torchvision":
        return _test_of_torchvision(spec)
    for word in _OTHERS:
        other = _of_splits(spec, word, splits) or _beside(spec, word)
        if other is not None:
            return str(other)
    return None


def _test_of_torchvision(spec: Spec) -> str | None:
    if spec.arg not in _IN_ONE_ARCHIVE or spec.options.get(_TRAIN, True) is not True:
        return None
    return str(Spec(spec.name, spec.arg, {**spec.options, _TRAIN: False}))


def _of_splits(spec: Spec, word: str, splits: Collection[str]) -> Spec | None:
    """Return a spec with the split `word` in the place of `train`, whole or a part as in
    `train[:80%]`; None if there is no such split."""
    own, _, _ = str(spec.options.get(_SPLIT, _TRAIN)).partition("[")
    if own != _TRAIN or word not in splits:
        return None
    return Spec(spec.name, spec.arg, {**spec.options, _SPLIT: word})


def _beside(spec: Spec, word: str) -> Spec | None:
    """Return a spec with `word` in the place of `train` in the names of its paths; None if no path
    has such a name, or one is not there."""
    arg = spec.arg
    paths: list[str] = []
    if arg is not None and _has_train(arg):
        arg = _renamed(arg, word)
        paths.append(arg)
    options: dict[str, Value] = {}
    for key, value in spec.options.items():
        options[key] = value
        # a path, and not split=train
        if isinstance(value, str) and value != _TRAIN and _has_train(value):
            options[key] = _renamed(value, word)
            paths.append(str(options[key]))
    if not paths or not all(map(os.path.exists, map(os.path.expanduser, paths))):
        return None
    if spec.arg is not None and arg is not None and _folders(spec.arg) != _folders(arg):
        return None  # other classes
    return Spec(spec.name, arg, options)


def _has_train(path: str) -> bool:
    return _TRAIN in Path(path).name


def _renamed(path: str, word: str) -> str:
    head, name = os.path.split(path.rstrip("/"))
    return os.path.join(head, name.replace(_TRAIN, word))  # noqa: PTH118 # `./` stays


def _folders(path: str) -> set[str]:
    """Return the names of the folders in a folder: those of classes."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return set()
    return {child.name for child in folder.iterdir() if child.is_dir()}
