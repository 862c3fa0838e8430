"""The digits: the same split for ever."""

import hashlib

import pytest

from kdcache.errors import UsageError
from kdcache.sources import Source, open_source


def test_digits_are_split_the_same_for_ever() -> None:
    sizes = {"train": 1197, "test": 600, "all": 1797}
    hashes = {}
    for split, size in sizes.items():
        source = open_source(f"digits:{split}")
        assert isinstance(source, Source)
        assert (len(source), source.classes, source.key(3)) == (size, 10, "00000003")
        content = b"".join(
            sample.image.tobytes() + bytes([sample.target])
            for sample in map(source.sample, range(size))
        )
        hashes[split] = hashlib.sha256(content).hexdigest()[:16]
    assert hashes == {
        "train": "0085392b2de03f8e",
        "test": "a2ca486764b8d3d2",
        "all": "f6f6eeba2c88473b",
    }
    assert open_source("digits").fingerprint == open_source("digits:train").fingerprint
    assert open_source("digits:split=test").fingerprint == open_source("digits:test").fingerprint
    assert len({open_source(f"digits:{split}").fingerprint for split in sizes}) == 3


def test_a_split_that_is_named_twice_is_told() -> None:
    with pytest.raises(UsageError, match="names its split twice"):
        open_source("digits:train,split=test")


def test_the_fingerprint_of_existing_caches_stays() -> None:
    assert (
        open_source("digits:train").fingerprint
        == "2179559eadd70ceda3046aba349e204622856c0d796cea62099b7e87c1a26ca5"
    )
    assert (
        open_source("digits:test").fingerprint
        == "46ae9af1a961b07e2e9c9637fcca3d2e730482aaf7497299ef1532c949e28e7b"
    )
