"""What a notebook or a prompt shows of an object."""

from pathlib import Path
from typing import Any

import torch
from runs import dump
from torchvision.transforms import v2

from kdcache import DistillationLoader, open_cache, open_source, recipe_of, verify_cache, views_of


def test_an_object_says_what_it_is_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    dump(path, seeds="0:2", codec="full:dtype=float16")
    cache = open_cache(path)
    rows = cache.manifest.rows
    shown = f"<Cache {path}: classification, {rows} samples, 10 classes, codec full>"
    assert repr(cache) == shown
    data = cache.manifest.source.spec
    loader = DistillationLoader(path, data=data, batch_size=40, num_workers=0, epochs=2)
    assert repr(loader) == (
        f"<DistillationLoader of {path}: {rows // 40} batches of 40 views an epoch, seeds 0 to 1,"
        " at step 0 of epoch 0>"
    )
    batch = next(iter(loader))
    assert repr(batch) == (
        "<DistillationBatch: images uint8 [40, 1, 8, 8] on cpu, DenseTargets of 10 classes, seed 0>"
    )
    recipe = recipe_of([v2.RandomCrop(8), v2.RandomHorizontalFlip()], mixing={"mixup": 0.2})
    names = ["RandomCrop", "RandomHorizontalFlip", "Resize", "mixing"]
    assert repr(recipe) == f"<Recipe own: RGB 8, {names}>"


def test_functions_take_data_sets_as_they_take_specs(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    dump(path, seeds="0:1")
    source = open_source(open_cache(path).manifest.source.spec)

    class Data(torch.utils.data.Dataset[Any]):
        """A program's own wrapper, which is a source by its fingerprint."""

        spec, classes, fingerprint = source.spec, source.classes, source.fingerprint

        def __len__(self) -> int:
            return len(source)

        def key(self, index: int) -> str:
            return source.key(index)

        def sample(self, index: int) -> Any:
            return source.sample(index)

    result = verify_cache(path, views=3, data=Data())
    assert result["faults"] == [] and result["views"]["checked"] >= 3
    views = [views_of(path, data).batch([(4, 0)]).views[0] for data in (Data(), source.spec)]
    assert torch.equal(*views)
