"""The classes of pixels, as a saved model sees them, in images of class indices."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoke, kdcache_json, mistake
from map_caches import EVAL, STUDENT
from PIL import Image
from runs import train
from segmentation_files import Shapes

from kdcache.errors import KdcacheError, UsageError
from kdcache.shapes import Labels
from kdcache.sources import as_source
from kdcache.tasks import open_task
from kdcache.tasks.predictions import PredictionSettings
from kdcache.tools.predict_config import PredictConfig
from kdcache.views import Batch

PLACE = ("--workers", "0", "--device", "cpu")
MODEL = "tiny_models:strongest,mean=0,std=1"
WORDS = ("--task", "segmentation", *PLACE)
CANVAS = """
size = 48
[[transforms]]
name = "kdcache.Letterbox"
size = "input"
"""


def write_blocks(path: Path, height: int, width: int) -> np.ndarray:
    """Write an image of red, green and blue blocks; return which is which."""
    generator = np.random.default_rng(height)
    blocks = generator.integers(0, 3, (-(-height // 12), -(-width // 12)))
    classes = blocks.repeat(12, 0).repeat(12, 1)[:height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((200 * np.eye(3)[classes]).astype(np.uint8)).save(path)
    return classes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recipe: str) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    settings = {"data": EVAL, "recipe": recipe, "eval_data": EVAL, "student": STUDENT}
    train(folder / "run", **settings, loss="ce", epochs=1, batch_size=8)
    return folder / "run"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images without masks, of several sizes and formats."""
    write_blocks(tmp_path / "photos" / "a.png", 36, 60)
    write_blocks(tmp_path / "photos" / "cats" / "b.bmp", 96, 72)
    return tmp_path / "photos"


def test_a_map_has_the_name_and_the_size_of_its_image(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    result = kdcache_json("predict", MODEL, "--data", photos, "-o", out, *WORDS)
    assert (result["maps"], result["images"], result["classes"]) == (2, 2, 3)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*.*"))
    assert files == ["a.png", "cats/b.png", "classes.txt"]
    for name, image in {"a.png": "a.png", "cats/b.png": "cats/b.bmp"}.items():
        strongest = np.asarray(Image.open(photos / image)).argmax(2)
        with Image.open(out / name) as drawn:
            np.testing.assert_array_equal(np.asarray(drawn), strongest)


def test_a_palette_gives_each_class_a_colour(photos: Path, tmp_path: Path) -> None:
    kdcache_json("predict", MODEL, "--data", photos, "-o", tmp_path / "maps", *WORDS)
    with Image.open(tmp_path / "maps" / "a.png") as drawn:
        assert drawn.mode == "P"
        colours = np.asarray(drawn.convert("RGB"))[np.asarray(drawn) == 2]
        assert (colours == (0, 128, 0)).all(), "that of class 2 in PASCAL VOC's masks"
        palette = np.asarray(drawn.getpalette("RGB")).reshape(-1, 3)
        assert len(np.unique(palette, axis=0)) == len(palette)


def test_a_canvas_is_undone(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "canvas.toml"
    recipe.write_text(CANVAS)
    out = tmp_path / "maps"
    kdcache_json("predict", MODEL, "--data", photos, "-o", out, "--recipe", recipe, *WORDS)
    for name, image in {"a.png": "a.png", "cats/b.png": "cats/b.bmp"}.items():
        strongest = np.asarray(Image.open(photos / image)).argmax(2)
        is_right = np.asarray(Image.open(out / name)) == strongest
        inner = np.ones(strongest.shape, bool)
        for axis in (0, 1):
            edges = np.diff(strongest, axis=axis, prepend=np.take(strongest, [0], axis)) != 0
            for shift in range(-3, 3):
                inner &= ~np.roll(edges, shift, axis)
        assert inner.mean() > 0.2 and is_right[inner].all(), "all but the edges of blocks"
        assert is_right.mean() > 0.9


@pytest.mark.parametrize(
    "words",
    [(), ("--align-corners",), ("--window", "12x16"), ("--window", "16", "--align-corners")],
)
def test_maps_are_those_that_an_evaluation_scores(
    words: tuple[str, ...], run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maps"
    told = kdcache_json("evaluate", run, *words, *PLACE)["scores"]["pixel_accuracy"]
    result = kdcache_json("predict", run, "-o", out, *words, *PLACE)
    assert (result["images"], result["task"]) == (8, "segmentation")
    source = as_source(Shapes(8))
    num_right = 0
    num_pixels = 0
    for index in range(8):
        mask = np.asarray(Shapes(8)[index][1])
        classes = np.asarray(Image.open(out / f"{source.key(index)}.png"))
        num_right += int((classes == mask)[mask != 255].sum())
        num_pixels += int((mask != 255).sum())
    assert told == pytest.approx(100 * num_right / num_pixels)


def test_maps_are_masks_that_kdcache_reads(photos: Path, tmp_path: Path) -> None:
    """So a model's maps label images for another one."""
    root = tmp_path / "pairs"
    write_blocks(root / "images" / "a.jpg", 36, 60)
    masks = root / "masks"
    kdcache_json("predict", MODEL, "--data", root / "images", "-o", masks, *WORDS)
    classes = masks / "classes.txt"
    assert classes.read_text() == "0\n1\n2\n"
    classes.rename(root / "classes.txt")
    spec = f"segfolder:{root},classes={root}/classes.txt"
    scores = kdcache_json("evaluate", MODEL, "--data", spec, *PLACE)["scores"]
    assert scores["pixel_accuracy"] == 100


@pytest.mark.parametrize("fault", ["colours", "size", "id", "bytes"])
def test_a_mask_that_is_wrong_matters_to_no_map(fault: str, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    write_blocks(root / "images" / "a.png", 36, 60)
    mask = root / "masks" / "a.png"
    mask.parent.mkdir()
    wrong = {"colours": ("RGB", (60, 36)), "size": ("L", (8, 8)), "id": ("L", (60, 36))}
    mask.write_bytes(b"no image")
    if fault in wrong:
        Image.new(*wrong[fault], 77).save(mask)
    spec = f"segfolder:{root},classes=3,images=images/{{}}.png"
    assert "mask" in mistake("evaluate", MODEL, "--data", spec, *PLACE)
    places = {"labelled": spec, "plain": root / "images", "part": f"{spec},fold=0/1"}
    for name, data in places.items():
        kdcache_json("predict", MODEL, "--data", data, "-o", tmp_path / name, *WORDS)
    plain = (tmp_path / "plain" / "a.png").read_bytes()
    for place in ("labelled", "part"):
        assert (tmp_path / place / "images" / "a.png").read_bytes() == plain


def test_an_image_that_cannot_be_read_has_no_map(photos: Path, tmp_path: Path) -> None:
    (photos / "0.png").write_bytes(b"no image")
    out = tmp_path / "maps"
    done = invoke("predict", MODEL, "--data", photos, "-o", out, *WORDS)
    assert done.exit_code == 0, done.output
    assert "left out  1 image unreadable" in done.stdout and "2 maps of 3 classes" in done.stdout
    assert "note: left out: sample 0 (0.png)" in done.stderr
    assert not (out / "0.png").exists()


def test_what_cannot_be_written_is_told(photos: Path, tmp_path: Path) -> None:
    words = ("predict", MODEL, "--data", photos, *WORDS)
    out = tmp_path / "maps"
    out.mkdir()
    (out / "a.png").write_text("of the user")
    assert "is not empty; name a new one" in mistake(*words, "-o", out)
    assert (out / "a.png").read_text() == "of the user"
    assert "is not empty" in mistake(*words, "-o", photos), "nor are images overwritten"
    line = mistake(*words, "-o", photos / "maps")
    assert "whose files are data: it would be taken for some of them" in line
    assert "an image each; name one, such as" in mistake(*words, "-o", tmp_path / "maps.csv")
    line = mistake(*words, "-o", tmp_path / "new", "--top-k", 3)
    assert "top_k is not for segmentation" in line
    line = mistake(*words, "-o", tmp_path / "new", "--recipe", "eval")
    assert "recipe eval shows a part of image 'a.png' only" in line
    write_blocks(photos / "a.jpg", 12, 12)
    line = mistake(*words, "-o", tmp_path / "new")
    assert "images 'a.jpg' and 'a.png' would both be written as a.png" in line
    assert not (tmp_path / "new").exists()


def test_where_two_names_are_one_file_no_map_is_written_over(tmp_path: Path) -> None:
    """As on file systems that look at no case."""
    keys = ["a.jpg", "A.jpg"]
    settings = PredictionSettings(out=tmp_path, class_names="ab", keys=keys)
    predictions = open_task("segmentation").predictions(settings)
    number = torch.zeros(1, dtype=torch.int64)
    batch = Batch((torch.zeros(1, 3, 2, 2),), Labels(number), number, number, ())
    classes = torch.zeros(2, 2, dtype=torch.uint8)
    predictions.add([classes], batch, {0: "a.jpg"})
    (tmp_path / "A.png").symlink_to("a.png")
    with pytest.raises(KdcacheError, match=r"'A\.jpg' would be written over the map of another"):
        predictions.add([classes], batch, {0: "A.jpg"})


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    for key in ("../a.png", "/a.png", "b/../../a.png", "..", "a\0.png"):
        settings = PredictionSettings(out=tmp_path, class_names="ab", keys=[key])
        with pytest.raises(KdcacheError, match="leads out of the folder"):
            open_task("segmentation").predictions(settings)


def test_more_classes_than_a_grey_level_has_are_refused(tmp_path: Path) -> None:
    settings = PredictionSettings(out=tmp_path, class_names=["a"] * 256, keys=[])
    with pytest.raises(UsageError, match="256 classes, and an image of class indices holds 255"):
        open_task("segmentation").predictions(settings)


def test_a_threshold_is_a_probability() -> None:
    with pytest.raises(UsageError, match=r"threshold is 1\.5; it must be from 0 to 1"):
        PredictConfig(model="a", out="b.csv", threshold=1.5)
