"""ml-dr's files: views are those that its program renders again, and what is told of files that are
none."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imports.fkd_files import key, write, write_images
from imports.ml_dr_files import (
    KINDS,
    NUM_SAMPLES,
    NUM_VIEWS,
    SIZE,
    config,
    content,
    densified,
    drawn,
    probabilities,
    rendered,
    write_folder,
)
from PIL import Image
from runs import losses, train

from kdcache import DistillationLoader, import_cache, open_cache, verify_cache, views_of
from kdcache.errors import CacheError, UsageError
from kdcache.imports.ml_dr import MlDr
from kdcache.sources import open_source
from kdcache.tools.export import export_cache

STUDENT = f"tiny_models:mlp,mean=0.5,std=0.25,size={SIZE},channels=3,classes=3"
Made = tuple[str, dict[str, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return the data's spec, and a cache of each kind."""
    root = tmp_path_factory.mktemp("ml-dr")
    data = write_images(root / "data")
    caches = {}
    for kind in KINDS:
        write_folder(root / kind, kind)
        caches[kind] = root / f"{kind}-cache"
        take(root / kind, caches[kind], data)
    return data, caches


def take(folder: Path, cache: Path, data: str, **options: Any) -> dict[str, Any]:
    return import_cache("ml-dr", folder, cache, data=data, teacher_name="IG", **options)


def images_of(data: str) -> list[Image.Image]:
    source = open_source(data)
    return [source.sample(index).image for index in range(len(source))]


@pytest.mark.parametrize("kind", list(KINDS))
def test_views_are_those_that_its_program_renders(kind: str, made: Made) -> None:
    data, caches = made
    cache = open_cache(caches[kind])
    images = images_of(data)
    views = views_of(cache, data, size=SIZE)
    num_mixed = 0
    for seed in range(NUM_VIEWS):
        for row, index in enumerate(cache.order.tolist()):
            parameters = drawn(index, kind)[seed]
            found = views.batch([(row, seed)]).views[0][0].float()
            expected = rendered(parameters, images, index)
            if parameters.get("mixup") is None:
                assert torch.equal(found, expected)
            else:  # to a whole number; a share has 16 bits
                assert (found - expected).abs().max() < 0.51
            num_mixed += parameters["partner"] is not None
    total = NUM_VIEWS * NUM_SAMPLES
    if "mixing" in kind:
        assert num_mixed > total / 2
    else:
        assert num_mixed == 0


@pytest.mark.parametrize("kind", ["cropflip", "randaug_mixing"])
def test_soft_targets_are_those_that_its_program_trains_on(kind: str, made: Made) -> None:
    cache = open_cache(made[1][kind])
    for seed in range(NUM_VIEWS):
        found = cache.codec.decode(cache.read(seed, range(NUM_SAMPLES))).probs(1.0)
        expected = [densified(probabilities(int(index))[seed]) for index in cache.order]
        assert torch.allclose(found, torch.stack(expected), atol=2e-3)


def test_a_mixed_view_has_two_labels_and_their_share(made: Made) -> None:
    data, caches = made
    cache = open_cache(caches["mixing"])
    views = views_of(cache, data, size=SIZE)
    targets = open_source(data).known_targets()  # type: ignore[attr-defined]
    for row, index in enumerate(cache.order.tolist()):
        parameters = drawn(index, "mixing")[0]
        labels = views.batch([(row, 0)]).labels
        assert labels.mixed is not None
        second, shares = labels.mixed
        assert int(labels.first[0]) == targets[index]
        if parameters["partner"] is None:
            assert (int(second[0]), float(shares[0])) == (targets[index], 1)
            continue
        share = parameters["mixup"] if parameters["mixup"] is not None else 1.0
        if parameters["cutmix"] is not None:
            _, top, left, bottom, right = parameters["cutmix"]
            share *= 1 - (bottom - top) * (right - left) / SIZE**2
        assert int(second[0]) == targets[parameters["partner"]]
        assert float(shares[0]) == pytest.approx(share, abs=1e-4)


def test_the_label_of_the_larger_share_counts_for_the_teacher(made: Made) -> None:
    """As in a dump: `content` has the teacher always see the class of the sample itself."""
    data, caches = made
    cache = open_cache(caches["mixing"])
    targets = open_source(data).known_targets()  # type: ignore[attr-defined]
    views = views_of(cache, data, size=SIZE)
    for seed in range(NUM_VIEWS):
        batch = views.batch([(row, seed) for row in range(NUM_SAMPLES)])
        own = torch.from_numpy(targets[cache.order].astype(np.int64))
        is_own = batch.labels.leading == own
        assert 0 < is_own.float().mean() < 1
        told = cache.commits(seed)[0].statistics["accuracy"]
        assert told == pytest.approx(100 * float(is_own.float().mean()))


def test_views_of_a_batch_are_those_of_each_alone(made: Made) -> None:
    data, caches = made
    views = views_of(open_cache(caches["randaug_mixing"]), data, size=SIZE)
    request = [(row, seed) for row in range(NUM_SAMPLES) for seed in (0, 3)]
    together = views.batch(request).views[0]
    for place, view in enumerate(request):
        assert torch.equal(together[place], views.batch([view]).views[0][0])


def test_a_view_of_twice_the_size_has_its_blocks_and_cuts_there(made: Made) -> None:
    data, caches = made
    cache = open_cache(caches["randaug_mixing"])
    large = views_of(cache, data, size=2 * SIZE)
    small = views_of(cache, data, size=SIZE)
    for row, index in enumerate(cache.order.tolist()):
        parameters = drawn(index, "randaug_mixing")[0]
        block = parameters["own"]["block"]
        if parameters["partner"] is None and block is not None:
            top, left, high, wide = block
            pixels = large.batch([(row, 0)]).views[0][0]
            inside = pixels[:, 2 * top : 2 * (top + high), 2 * left : 2 * (left + wide)]
            assert not inside.any()
        mixes = [views.batch([(row, 0)]).labels.mixed for views in (large, small)]
        assert torch.equal(mixes[0][1], mixes[1][1])


@pytest.mark.parametrize("kind", ["randaug", "randaug_mixing"])
def test_its_views_are_verified_and_trained_on(kind: str, made: Made, tmp_path: Path) -> None:
    data, caches = made
    report = verify_cache(caches[kind], views=16, data=data)
    assert report["faults"] == []
    assert report["views"] == {"checked": 16, "other_pixels": 0}
    settings = {"cache": str(caches[kind]), "data": data, "student": STUDENT, "loss": "kl:tau=1"}
    train(tmp_path / "run", **settings, epochs=2, batch_size=4)
    assert np.isfinite(losses(tmp_path / "run")).all()


def test_another_partner_is_told_as_that(made: Made, tmp_path: Path) -> None:
    data, caches = made
    other = tmp_path / "data"
    shutil.copytree(data.partition(":")[2], other)
    cache = open_cache(caches["mixing"])
    traced = [
        (commit.seed, int(cache.order[probe.row]))
        for seed in cache.seeds()
        for commit in cache.commits(seed)
        for probe in commit.probes
        if probe.steps is not None
    ]
    partners = {drawn(index, "mixing")[seed]["partner"] for seed, index in traced}
    changed = min(partners - {index for _, index in traced} - {None})
    with Image.open(other / f"{key(changed)}.png") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other / f"{key(changed)}.png")
    report = verify_cache(caches["mixing"], views=1000, data=f"imagefolder:{other}")
    assert "mixing it, or a step of its partner" in report["faults"][0]


def test_workers_of_a_loader_mix_as_stored(made: Made) -> None:
    data, caches = made
    options: dict[str, Any] = {"data": data, "batch_size": 6, "device": "cpu", "size": SIZE}
    batches = []
    for num_workers in (0, 2):
        loader = DistillationLoader(caches["mixing"], num_workers=num_workers, **options)
        batches.append(next(iter(loader)))
    assert torch.equal(batches[0].images, batches[1].images)
    assert torch.equal(batches[0].teacher.probs(1.0), batches[1].teacher.probs(1.0))


def test_a_recipe_knows_whether_it_mixes(made: Made) -> None:
    mixes = {kind: open_cache(path).recipe.mixes for kind, path in made[1].items()}
    assert mixes == {kind: "mixing" in kind for kind in KINDS}


def test_a_subset_with_images_is_refused_where_views_are_mixed(made: Made, tmp_path: Path) -> None:
    from kdcache import convert_cache

    data, caches = made
    for kind, is_mixed in (("mixing", True), ("cropflip", False)):
        part = tmp_path / kind
        export_cache(caches[kind], part, samples="0:6")
        if is_mixed:
            with pytest.raises(UsageError, match="mixes each view with another"):
                convert_cache(part, tmp_path / "tars", store="webdataset", data=data)
        else:
            convert_cache(part, tmp_path / "tars", store="webdataset", data=data)


def test_the_size_is_that_of_their_program_unless_it_is_asked_for(
    made: Made, tmp_path: Path
) -> None:
    data, caches = made
    assert open_cache(caches["cropflip"]).recipe.size == SIZE
    folder = write_folder(tmp_path / "files", "cropflip")
    take(folder, tmp_path / "cache", data, size=40, interpolation="bicubic", crops="0:1")
    recipe = open_cache(tmp_path / "cache").recipe
    assert recipe.size == 40
    assert recipe.transforms[0]["interpolation"] == "bicubic"


def test_a_view_without_a_transform_is_as_if_it_had_none(made: Made, tmp_path: Path) -> None:
    """As ml-dr writes one that was left out by chance."""
    data, _ = made
    number, views = content(0, "randaug")
    for view in views:
        view["params"][2] = None
        view["params"][3] = None
    folder = write_folder(tmp_path / "files", "randaug")
    write(folder / "0.pth.tar", (number, views))
    take(folder, tmp_path / "cache", data)
    cache = open_cache(tmp_path / "cache")
    row = cache.order.tolist().index(0)
    parameters = drawn(0, "randaug")[0]
    parameters["own"] |= {"operations": [], "block": None}
    found = views_of(cache, data, size=SIZE).batch([(row, 0)]).views[0][0]
    assert torch.equal(found.float(), rendered(parameters, images_of(data), 0))


def read(folder: Path, data: str, kind: str, value: Any) -> None:
    """Read a file that holds `value` as that of sample 0."""
    write(folder / "config.pth.tar", config(kind))
    write(folder / "0.pth.tar", value)
    MlDr(folder, open_source(data)).labels(0)


def with_params(place: int, value: Any, kind: str = "randaug_mixing") -> Any:
    """Return a file whose first view has another value; it is mixed where that has a partner."""
    number, views = content(0, kind)
    mixed = [view for view in views if view["params"][0] is not None]
    view = mixed[0] if "mixing" in kind else views[0]
    view["params"] = [*view["params"]]
    view["params"][place] = value
    return number, views


def with_label(label: Any) -> Any:
    number, views = content(0, "cropflip")
    views[1]["prob"] = label
    return number, views


OTHERS: list[tuple[str, Any, str]] = [
    ("cropflip", [1], "no number and views"),
    ("cropflip", content(1, "cropflip"), "labels of sample 1, not of 0"),
    ("cropflip", (0, []), "no list of views"),
    ("cropflip", (0, [{"params": []}]), "where params and prob of a view are to be"),
    ("cropflip", (0, [{"params": {"uint8": ()}, "prob": ([0.5], [0])}]), "`compress: true` wrote"),
    ("cropflip", content(0, "randaug"), "they are to be random_resized_crop, random_horiz"),
    ("cropflip", with_params(0, (1, 2, 3), "cropflip"), r"\(1, 2, 3\), which is not 4 numbers"),
    ("cropflip", with_params(0, (0, 0, 1 << 16, 1), "cropflip"), "whole numbers from 0 to 65535"),
    ("cropflip", with_params(0, (0, 0, 1.0, 1), "cropflip"), "whole numbers from 0 to 65535"),
    ("cropflip", with_params(0, (0, 0, 0, 0), "cropflip"), "a box that does not lie in its"),
    ("cropflip", with_params(0, (0, 0, 0, 9), "cropflip"), "pixel_boxes of which one has no"),
    ("cropflip", with_params(1, 2, "cropflip"), "flip 2; it is True or False"),
    ("randaug", with_params(2, [(0, 0.0)], "randaug"), "they are 2 pairs"),
    ("randaug", with_params(2, [(0, 0.0), (14, 0.0)], "randaug"), "it is a number and a magni"),
    ("randaug", with_params(2, [(0, 0.0), (1, np.nan)], "randaug"), "it is a number and a magni"),
    ("randaug", with_params(3, (0, 0, 99, 2), "randaug"), "blocks of which one does not lie"),
    ("randaug_mixing", with_params(0, None), "a view that is mixed, and no partner"),
    ("randaug_mixing", with_params(0, NUM_SAMPLES), "partners beyond the last of 18 samples"),
    ("randaug_mixing", with_params(0, -1), "whole numbers from 0 to 4294967294"),
    ("randaug_mixing", with_params(2, True), "True where two values are to be"),
    ("randaug_mixing", with_params(5, 1.5), "share 1.5 of mixup; it is from 0 to 1"),
    ("randaug_mixing", with_params(6, [0.5, 0, 0]), "of cutmix; it is a share and four numbers"),
    ("randaug_mixing", with_params(6, [0.5, 0, 0, 99, 9]), "cuts of which one does not lie"),
    ("cropflip", with_label(([0.5], [0])), "1 labels of a view, and 2 of the first"),
    ("cropflip", with_label(([0.5, 0.1], [0])), "two lists, probabilities and classes"),
    ("cropflip", with_label([0.5, 0.1]), "two lists, probabilities and classes"),
    ("cropflip", with_label(([0.5, 1], [0, 1])), "two lists, probabilities and classes"),
    ("cropflip", with_label(([0.5, 0.1], [0, 1 << 40])), "two lists, probabilities and classes"),
    ("cropflip", with_label(([0.5, 0.1], [0, 3])), "labels of classes 0 to 3, and the data has"),
    ("cropflip", with_label(([0.5, 0.9], [0, 1])), "no probabilities"),
]


@pytest.mark.parametrize(("kind", "value", "message"), OTHERS, ids=[text for *_, text in OTHERS])
def test_other_content_is_told(
    kind: str, value: Any, message: str, made: Made, tmp_path: Path
) -> None:
    with pytest.raises(CacheError, match=message) as caught:
        read(tmp_path / "files", made[0], kind, value)
    assert "files/0.pth.tar holds " in str(caught.value)
    assert "is it one of ml-dr's, for these data?" in str(caught.value)


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 7, 1 << 40, -0.5, 0.5, 1e300, float("nan"), "text", b"bytes"),
    *((), [], {}, [[]], (1, 2), [0.5, 1, 2, 3, 4], {"params": 1}),
)
MANY = 300
"""Files that are tried."""


def with_something_odd(value: Any, draw: random.Random) -> Any:
    """Return a value with something else in one place of it."""
    if isinstance(value, dict) and value and draw.random() < 0.95:
        key = draw.choice([*value])
        return {**value, key: with_something_odd(value[key], draw)}
    if isinstance(value, list | tuple) and value and draw.random() < 0.95:
        items = [*value]
        place = draw.randrange(len(items))
        items[place] = with_something_odd(items[place], draw)
        return tuple(items) if isinstance(value, tuple) else items
    return draw.choice(ODD)


def test_whatever_a_file_holds_is_read_or_told(made: Made, tmp_path: Path) -> None:
    source = open_source(made[0])
    num_told = 0
    draw = random.Random(0)
    kind = "randaug_mixing"
    for number in range(MANY):
        values = [config(kind), content(0, kind)]
        place = number % 2
        values[place] = with_something_odd(values[place], draw)
        folder = tmp_path / str(number)
        write(folder / "config.pth.tar", values[0])
        write(folder / "0.pth.tar", values[1])
        try:
            MlDr(folder, source).labels(0)
        except CacheError as error:
            assert "\n" not in str(error)
            num_told += 1
    assert num_told > MANY / 3


CONFIGS: list[tuple[Any, str]] = [
    ([], "no settings of reinforce.image_augmentation"),
    ({"reinforce": {"num_samples": 4}}, "no settings of reinforce.image_augmentation"),
    ({"random_resized_crop": 5}, "settings 5 of 'random_resized_crop'"),
    ({"resize": {"size": 224}}, "views that 'resize' made"),
    ({"random_horizontal_flip": {}}, "no random_resized_crop"),
    ({"random_resized_crop": {"enable": False, "size": 8}}, "no random_resized_crop"),
    ({"random_resized_crop": {"size": [8, 9]}}, r"views of size \[8, 9\]"),
    ({"random_resized_crop": {"size": 4000}}, "views of size 4000; it is read from 1 to 1000"),
    ({"random_resized_crop": {"size": 8, "interpolation": "bicubic"}}, "with 'interpolation'"),
    (
        {"random_resized_crop": {"size": 8}, "rand_augment": {"num_ops": 99}},
        "num_ops 99; it is from 0 to 16",
    ),
]


@pytest.mark.parametrize(("table", "message"), CONFIGS, ids=[text for _, text in CONFIGS])
def test_views_that_cannot_be_rendered_are_refused(
    table: Any, message: str, made: Made, tmp_path: Path
) -> None:
    whole = table
    if isinstance(table, dict) and "reinforce" not in table:
        whole = {"reinforce": {"image_augmentation": table}}
    write(tmp_path / "config.pth.tar", whole)
    with pytest.raises(CacheError, match=message) as caught:
        MlDr(tmp_path, open_source(made[0]))
    assert "config.pth.tar holds " in str(caught.value)


def test_a_folder_of_something_else_is_told(made: Made, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"there is no file .*config.pth.tar, which says how"):
        take(tmp_path, tmp_path / "cache", made[0])


def test_labels_of_more_images_than_there_are_are_told(made: Made, tmp_path: Path) -> None:
    data, _ = made
    folder = write_folder(tmp_path / "files", "cropflip")
    shutil.copy(folder / "0.pth.tar", folder / f"{NUM_SAMPLES}.pth.tar")
    with pytest.raises(CacheError, match=r"has 18 samples, and there is a file .* of one more"):
        take(folder, tmp_path / "cache", data)


def test_a_crop_of_another_image_is_told(made: Made, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "files", "cropflip")
    write(folder / "0.pth.tar", with_params(0, (0, 0, 500, 9), "cropflip"))
    with pytest.raises(Exception, match="passes the end of an image of 40x64"):
        take(folder, tmp_path / "cache", made[0])
