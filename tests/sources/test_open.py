"""Opening a source by its spec: one clear line for each mistake; your own function."""

import sys
from pathlib import Path

import pytest
from PIL import Image

from kdcache.errors import SourceError, UsageError
from kdcache.sources import Sample, Source, open_source


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("digit:train", UsageError, "did you mean 'digits'"),
        ("digits:trian", UsageError, "unknown split of digits 'trian'; did you mean 'train'"),
        ("digits:train,spilt=test", UsageError, "did you mean 'split'"),
        (
            "imagefolder:/no/such/folder",
            SourceError,
            "imagefolder '/no/such/folder' is not a folder",
        ),
        ("imagefolder", SourceError, "imagefolder None is not a folder"),
        ("imagefolder:.,size=3", UsageError, "takes a path and no options, not size"),
        ("torchvision:FashionMNST", UsageError, "did you mean 'FashionMNIST'"),
        ("torchvision:FashionMNIST,rot=x", UsageError, "did you mean 'root'"),
        (
            "torchvision:FashionMNIST,root=/no/such",
            SourceError,
            "check root='/no/such', or add download=true",
        ),
        ("torchvision:FashionMNIST", SourceError, "missing 1 required positional argument: 'root'"),
        ("torchvision:CIFAR10,root=/no/such", SourceError, "Dataset not found .*download=true"),
        ("tiny_models", UsageError, "names no function; write tiny_models:function"),
        (
            "tiny_models:nosie",
            UsageError,
            "unknown function of module tiny_models 'nosie'; did you mean 'noise'",
        ),
        ("tiny_models:noise,lenght=4", UsageError, "did you mean 'length'"),
        (
            "tiny_models:noise,length=0",
            SourceError,
            "is empty; name a data set with at least one sample",
        ),
        ("", UsageError, "spec is empty"),
    ],
)
def test_a_wrong_spec_is_told(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(spec)


def test_your_own_function_gives_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = open_source("tiny_models:noise,length=7,classes=3")
    assert isinstance(source, Source)
    assert (len(source), source.classes, source.spec) == (
        7,
        3,
        "tiny_models:noise,length=7,classes=3",
    )
    again = open_source("tiny_models:noise,length=7,classes=3")
    other = open_source("tiny_models:noise,length=7,size=8,classes=3")
    assert again.fingerprint == source.fingerprint != other.fingerprint
    (tmp_path / "my_own_data.py").write_text(
        "from tiny_models import Noise\n\ndef build(n=3):\n    return Noise(n)\n"
    )
    monkeypatch.chdir(tmp_path)  # modules are found in the working directory
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert len(open_source("my_own_data:build,n=4")) == 4


class Own:
    """A whole source, not a data set."""

    spec, classes, fingerprint = "own", 2, "abc"

    def __len__(self) -> int:
        return 1

    def key(self, index: int) -> str:
        return "one"

    def sample(self, index: int) -> Sample:
        return Sample(Image.new("L", (4, 4)), 1)


def test_an_object_with_a_fingerprint_is_a_source_already(monkeypatch: pytest.MonkeyPatch) -> None:
    import tiny_models

    monkeypatch.setattr(tiny_models, "own", Own, raising=False)
    source = open_source("tiny_models:own")
    assert isinstance(source, Source) and (
        source.fingerprint,
        source.spec,
        source.classes,
        len(source),
    ) == ("abc", "own", 2, 1)
    assert source.key(0) == "one" and source.sample(0).target == 1
