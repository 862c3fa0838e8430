"""Folds: disjoint, complete, the same everywhere, of any source."""

from pathlib import Path

import numpy as np
import pytest
from image_files import write_images
from segmentation_files import write_voc

from kdcache.errors import SourceError, UsageError
from kdcache.sources import Source, check_source, open_source
from kdcache.sources.protocol import Filed, Listed


def keys(spec: str) -> list[str]:
    source = open_source(spec)
    return [source.key(index) for index in range(len(source))]


def test_folds_are_disjoint_and_complete() -> None:
    folds = [keys(f"digits:train,fold={number}/5") for number in range(5)]
    together = sorted(key for fold in folds for key in fold)
    assert together == keys("digits:train")
    sizes = np.array([len(fold) for fold in folds])
    assert abs(sizes - len(together) / 5).max() < 60, "of nearly the same size"
    for number, fold in enumerate(folds):
        rest = keys(f"digits:train,except_fold={number}/5")
        assert sorted(rest + fold) == together and not set(rest).intersection(fold)


def test_a_sample_stays_in_its_fold_when_others_come(tmp_path: Path) -> None:
    names = {f"{kind}/{number}.png": number for kind in ("cat", "dog") for number in range(20)}
    folder = write_images(tmp_path / "images", names)
    before = set(keys(f"imagefolder:{folder},fold=1/4"))
    write_images(folder, {f"owl/{number}.png": number for number in range(20)})
    after = set(keys(f"imagefolder:{folder},fold=1/4"))
    assert before and {key for key in after if not key.startswith("owl")} == before


def test_a_fold_tells_of_itself_what_its_source_does(tmp_path: Path) -> None:
    names = {f"{kind}/{number}.png": number for kind in ("cat", "dog") for number in range(20)}
    folder = write_images(tmp_path / "images", names)
    whole = open_source(f"imagefolder:{folder}")
    fold = open_source(f"imagefolder:{folder},fold=0/3")
    assert isinstance(fold, Source) and isinstance(fold, Listed) and isinstance(fold, Filed)
    assert isinstance(whole, Listed)
    assert fold.spec == f"imagefolder:{folder},fold=0/3"
    assert fold.class_names == ("cat", "dog") and fold.classes == 2 and not fold.may_draw
    places = [list(whole.keys()).index(key) for key in fold.keys()]  # noqa: SIM118
    targets, sizes = fold.known_targets(), fold.file_sizes()
    whole_targets, whole_sizes = whole.known_targets(), whole.file_sizes()
    assert targets is not None and sizes is not None
    assert whole_targets is not None and whole_sizes is not None
    assert targets.tolist() == whole_targets[places].tolist()
    assert sizes.tolist() == whole_sizes[places].tolist()
    contents = fold.contents(2)
    assert contents == whole.contents(places[2]) and contents == (fold.stored(2),)
    image, target = fold.sample(2, contents)
    assert target == targets[2] and image.tobytes() == whole.sample(places[2]).image.tobytes()
    assert fold.fingerprint != whole.fingerprint
    assert fold.fingerprint != open_source(f"imagefolder:{folder},except_fold=0/3").fingerprint
    assert fold.fingerprint == open_source(fold.spec).fingerprint


def test_masks_have_folds_too(tmp_path: Path) -> None:
    write_voc(tmp_path, 24, 32)
    spec = f"torchvision:VOCSegmentation,root={tmp_path}"
    whole = keys(spec)
    parts = []
    for number in range(2):
        try:
            parts += keys(f"{spec},fold={number}/2")
        except SourceError as error:
            assert "holds no sample; take another fold" in str(error)
    assert sorted(parts) == sorted(whole)


@pytest.mark.parametrize("text", ["5/5", "0", "a/b", "0/0", "0/1001", "-1/5", "0.5"])
def test_a_fold_that_is_none_is_told(text: str) -> None:
    for option in ("fold", "except_fold"):
        for call in (open_source, check_source):
            with pytest.raises(UsageError, match=f"{option} is .*; it must be K/N"):
                call(f"digits:train,{option}={text}")


def test_two_folds_are_one_too_many() -> None:
    with pytest.raises(UsageError, match="fold and except_fold; give one"):
        check_source("digits:train,fold=0/5,except_fold=1/5")


def test_a_function_of_ones_own_gets_its_own_options() -> None:
    with pytest.raises(UsageError, match="unknown option of source tiny_models:noise, 'fold'"):
        open_source("tiny_models:noise,fold=0/5")
