"""The views of a cache for a training loop of one's own: of the source that it was made from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import CONV, dump
from tiny_models import Noise

import kdcache
from kdcache import views_of
from kdcache.config.spec import Spec
from kdcache.errors import MismatchError, UsageError
from kdcache.sources import DatasetSource, open_source

FEW = "tiny_models:few_digits,length=64"


class Shuffled(Noise):
    """The same images in another order."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(self.length - 1 - index)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache")
    dump(path, data=FEW, seeds="0:1")
    return path


def test_views_are_those_of_the_dump(path: Path) -> None:
    cache = kdcache.open_cache(path)
    commit = cache.commit_of(0, 0)
    for data in (FEW, open_source(FEW)):
        views = views_of(cache, data)
        probe = commit.probes[3]
        row = probe.row
        assert views.trace(row, 0) == probe.steps
        batch = views.batch([(row, 0)])
        assert batch.views[0].shape == (1, 1, 8, 8)
        target = views.source.sample(int(cache.order[row])).target
        assert batch.labels.first.tolist() == [target]
    assert views_of(cache, FEW, size=12).batch([(0, 0)]).views[0].shape == (1, 1, 12, 12)


def test_another_source_is_refused_whatever_its_length(path: Path) -> None:
    cache = kdcache.open_cache(path)
    for data in ("tiny_models:parity,length=64", "digits:test", "tiny_models:few_digits,length=65"):
        with pytest.raises(MismatchError, match=r"is not what cache .* was made from"):
            views_of(cache, data)
        with pytest.raises(MismatchError, match=r"is not what cache .* was made from"):
            views_of(cache, open_source(data))


def test_a_source_in_another_order_is_refused(tmp_path: Path) -> None:
    settings = {"data": "tiny_models:noise,size=32", "recipe": "cifar", "seeds": "0:1"}
    dump(tmp_path, teacher=f"{CONV},classes=5,channels=3", **settings)
    cache = kdcache.open_cache(tmp_path)
    other = DatasetSource(Shuffled(size=32), Spec("shuffled"))
    assert len(other) == cache.manifest.rows and other.classes == cache.manifest.classes
    with pytest.raises(MismatchError, match="data shuffled is not what cache"):
        views_of(cache, other)


def test_without_data_the_images_are_those_that_the_cache_holds(path: Path, tmp_path: Path) -> None:
    dump(tmp_path, data=FEW, seeds="0:1", store="webdataset")
    tars = kdcache.open_cache(tmp_path)
    whole = kdcache.open_cache(path)
    rows = [(row, 0) for row in range(64)]
    ours = views_of(tars).batch(rows)
    theirs = views_of(whole, FEW).batch(rows)
    assert np.array_equal(ours.views[0].numpy(), theirs.views[0].numpy())
    assert ours.labels.first.tolist() == theirs.labels.first.tolist()
    with pytest.raises(UsageError, match="--data"):
        views_of(whole)


def test_views_have_the_size_that_the_teacher_saw(tmp_path: Path) -> None:
    dump(tmp_path, data=FEW, seeds="0:1", teacher=f"{CONV},input_size=12")
    views = views_of(tmp_path, FEW)
    assert views.recipes[0].size == 12
    assert views.batch([(0, 0)]).views[0].shape == (1, 1, 12, 12)
