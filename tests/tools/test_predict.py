"""What a saved model sees in images, written to a file."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import invoke, kdcache, kdcache_json, mistake
from image_files import write_images, write_shards
from PIL import Image
from pyarrow import parquet
from runs import DIGITS, MLP, dump, train

from kdcache.models.model import open_model
from kdcache.sources import Digits
from kdcache.tools.saved_classes import names_for
from kdcache.tools.saved_model import SavedModel
from kdcache.views import load_recipe

PLACE = ("--workers", "0", "--device", "cpu")
NAMED = "tiny_models:named_digits"
HEAD = ["key", "class_1", "probability_1", "class_2", "probability_2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    train(folder / "run", data=NAMED, recipe="digits", loss="ce", eval_data=NAMED, epochs=3)
    return folder / "run"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten digits as plain files, one of them with a name that needs quotes in a table."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "below, or so").mkdir()
    for number, pixels in enumerate(Digits("test").data[:10]):
        place = "below, or so" if number == 9 else "."
        Image.fromarray(pixels).save(folder / place / f"{number}.png")
    (folder / "notes.txt").write_text("none of them")
    return folder


def table(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def probabilities(run: Path) -> np.ndarray:
    """Return what the student says of the ten digits, without the command."""
    spec = f"{MLP},weights={run}/best.safetensors"
    model = open_model(spec, classes=10, recipe=load_recipe("digits"), trained=True)
    pixels = torch.from_numpy(Digits("test").data[:10])[:, None]
    with torch.no_grad():
        return torch.softmax(model.eval()(pixels), dim=1).numpy()


def test_a_folder_without_labels_is_predicted_by_name(
    run: Path, images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "preds.csv"
    result = kdcache_json("predict", run, "--data", images, "-o", out, "--top-k", 2, *PLACE)
    assert (result["images"], result["unreadable"], result["top_k"]) == (10, 0, 2)
    head, *rows = table(out)
    assert head == HEAD
    assert [row[0] for row in rows] == [*(f"{n}.png" for n in range(9)), "below, or so/9.png"]
    for row, expected in zip(rows, probabilities(run), strict=True):
        first, second = np.argsort(-expected)[:2]
        assert (row[1], row[3]) == (f"digit {first}", f"digit {second}")
        assert float(row[2]) == pytest.approx(expected[first], abs=1e-5)
        assert float(row[4]) == pytest.approx(expected[second], abs=1e-5)


def test_parquet_says_the_same(run: Path, images: Path, tmp_path: Path) -> None:
    for name in ("preds.csv", "preds.parquet"):
        kdcache("predict", run, "--data", images, "-o", tmp_path / name, *PLACE)
    _, *rows = table(tmp_path / "preds.csv")
    content = parquet.read_table(tmp_path / "preds.parquet").to_pylist()
    assert len(content) == len(rows) == 10
    for line, row in zip(content, rows, strict=True):
        assert [line["key"], line["class_1"]] == row[:2]
        assert line["probability_5"] == pytest.approx(float(row[10]), abs=1e-6)


def test_weights_alone_bring_all_that_is_needed(run: Path, images: Path, tmp_path: Path) -> None:
    """Their size, mode and names: there is no run, no recipe and no label."""
    recipe = tmp_path / "grey.toml"
    recipe.write_text('mode = "L"\nsize = 8\n[[transforms]]\nname = "Resize"\nsize = "input"\n')
    spec = f"{MLP},weights={run}/best.safetensors"
    for name, words in {"a.csv": (), "b.csv": ("--recipe", recipe)}.items():
        kdcache("predict", spec, "--data", images, "-o", tmp_path / name, *words, *PLACE)
    assert [row[:2] for row in table(tmp_path / "b.csv")[1:]] == [
        [f"{number}.png", f"digit {probabilities(run)[number].argmax()}"] for number in range(9)
    ] + [["below, or so/9.png", f"digit {probabilities(run)[9].argmax()}"]]
    assert table(tmp_path / "a.csv")[0][:3] == HEAD[:3]


def test_a_source_and_one_image_are_predicted_too(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "preds.csv"
    default = kdcache_json("predict", run, "-o", out, *PLACE)
    assert default["data"] == NAMED and default["images"] == 64
    kdcache("predict", run, "--data", images / "3.png", "-o", out, "--batch-size", 1, *PLACE)
    assert [row[0] for row in table(out)] == ["key", "3.png"]


def test_the_ending_may_be_in_capitals(run: Path, images: Path, tmp_path: Path) -> None:
    kdcache("predict", run, "--data", images, "-o", tmp_path / "A.CSV", *PLACE)
    kdcache("predict", run, "--data", images, "-o", tmp_path / "A.PARQUET", *PLACE)
    assert len(table(tmp_path / "A.CSV")) == 11
    assert parquet.read_table(tmp_path / "A.PARQUET").num_rows == 10


def test_the_runs_own_data_is_the_source_that_it_was_in_training(tmp_path: Path) -> None:
    """Here a folder of tars, in which there are no images as files."""
    write_shards(tmp_path / "val", 10, classes=10)
    settings = {"data": DIGITS, "recipe": "digits", "loss": "ce", "epochs": 1}
    train(tmp_path / "run", **settings, eval_data=str(tmp_path / "val"))
    for words in ((), ("--data", tmp_path / "val")):
        result = kdcache_json("predict", tmp_path / "run", *words, "-o", tmp_path / "a.csv", *PLACE)
        assert result["images"] == 10


def test_the_name_of_a_source_is_that_source_beside_a_folder_of_its_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "digits", {"a.png": 1, "b.png": 2})
    result = kdcache_json("predict", run, "--data", "digits:test", "-o", "a.csv", *PLACE)
    assert result["images"] == len(Digits("test"))
    for data, num_images in {"digits": len(Digits()), "./digits": 2}.items():
        result = kdcache_json("predict", run, "--data", data, "-o", "a.csv", *PLACE)
        assert result["images"] == num_images


def test_a_run_whose_cache_is_gone_says_what_it_wants_of_an_image(
    images: Path, tmp_path: Path
) -> None:
    dump(tmp_path / "cache")
    train(tmp_path / "run", cache=str(tmp_path / "cache"), eval_data=DIGITS)
    words = ("predict", tmp_path / "run", "--data", images, *PLACE)
    kdcache(*words, "-o", tmp_path / "before.csv")
    (tmp_path / "cache").rename(tmp_path / "elsewhere")
    kdcache(*words, "-o", tmp_path / "after.csv", "--recipe", "eval-whole")
    assert table(tmp_path / "after.csv") == table(tmp_path / "before.csv")
    done = invoke(*words, "-o", tmp_path / "after.csv")
    assert done.exit_code == 0 and "recipe of views is taken for eval; --recipe" in done.stderr
    kdcache("export-model", tmp_path / "run", tmp_path / "a.pt2")


def test_an_image_that_cannot_be_read_is_left_out_and_told(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    out = tmp_path / "preds.csv"
    assert "no image of images:" in mistake("predict", run, "--data", folder, "-o", out, *PLACE)
    assert not out.exists()
    Image.new("L", (8, 8)).save(folder / "b.png")
    done = invoke("predict", run, "--data", folder, "-o", out, *PLACE)
    assert done.exit_code == 0 and "left out  1 image unreadable" in done.stdout
    assert "note: left out: sample 0 (a.png)" in done.stderr
    assert [row[0] for row in table(out)] == ["key", "b.png"]


def test_weights_that_say_nothing_take_their_classes_from_the_user(
    run: Path, images: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    bare = tmp_path / "bare.safetensors"
    save_file(load_file(run / "best.safetensors"), bare)
    words = ("predict", f"{MLP},weights={bare}", "--recipe", "digits", "--data", images, *PLACE)
    out = tmp_path / "preds.csv"
    assert "give --classes, a number or" in mistake(*words, "-o", out)
    kdcache(*words, "-o", out, "--classes", 10)
    best = probabilities(run).argmax(1)
    assert table(out)[1][1] == str(best[0])
    names = tmp_path / "names.txt"
    names.write_text("\n".join("abcdefghij"))
    kdcache(*words, "-o", out, "--classes", names)
    assert table(out)[1][1] == "abcdefghij"[best[0]]
    assert "are asked for: give --classes 10, or" in mistake(*words, "-o", out, "--classes", 7)
    assert "neither a number nor" in mistake(*words, "-o", out, "--classes", "many")


def test_what_cannot_be_predicted_is_told(run: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "preds.csv"
    data = ("--data", images)
    assert "did you mean '.csv'" in mistake("predict", run, *data, "-o", tmp_path / "a.csw")
    line = mistake("predict", run, *data, "-o", tmp_path / "x" / "a.csv")
    assert "does not exist; make it first" in line
    (tmp_path / "folder.csv").mkdir()
    assert "it is a folder" in mistake("predict", "tim:x", *data, "-o", tmp_path / "folder.csv")
    assert "give --data" in mistake("predict", f"{MLP},weights={run}/best.safetensors", "-o", out)
    line = mistake("predict", run, *data, "-o", out, "--top-k", 11, *PLACE)
    assert "top_k is 11, and the model has 10 classes" in line
    assert "top_k is 0" in mistake("predict", run, *data, "-o", out, "--top-k", 0)
    (tmp_path / "empty").mkdir()
    assert "holds no image" in mistake("predict", run, "--data", tmp_path / "empty", "-o", out)
    assert "task is segmentation, and model" in mistake(
        "predict", run, *data, "-o", tmp_path / "maps", "--task", "segmentation"
    )
    assert "did you mean 'detection'" in mistake(
        "predict", run, *data, "-o", out, "--task", "detect"
    )
    assert "known: .csv, .parquet" in mistake("predict", run, *data, "-o", tmp_path / "maps")
    for words in (("--threshold", 0.5), ("--window", 32), ("--align-corners",)):
        line = mistake("predict", run, *data, "-o", out, *words)
        assert "is not for classification; leave it out" in line


def test_what_images_are_labelled_with_does_not_matter(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "preds.csv"
    words = ("--data", "tiny_detectors:rectangles", "--recipe", "digits", "-o", out)
    assert kdcache_json("predict", run, *words, *PLACE)["images"] == 16
    assert len(table(out)) == 17


def test_weights_of_another_task_want_another_place(tmp_path: Path, images: Path) -> None:
    from safetensors.numpy import save_file

    from kdcache.models.preprocessing import Preprocessing
    from kdcache.models.weight_facts import weight_facts

    facts = weight_facts(
        Preprocessing(8, (0.5,), (0.5,)), task="segmentation", num_classes=2, label_names=None
    )
    path = tmp_path / "maps.safetensors"
    save_file({"weight": np.zeros(1, np.float32)}, path, facts.to_metadata())
    line = mistake("predict", f"{MLP},weights={path}", "--data", images, "-o", tmp_path / "a.csv")
    assert "segmentation is written to a folder, an image each; name one, such as" in line


def test_classes_of_a_library_s_weights_are_imagenets_if_there_are_as_many(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrained = SavedModel("timm:resnet50,pretrained=true")
    assert names_for(pretrained, 1000, None)[:2] == ("tench", "goldfish")
    assert "the 1000 classes of timm:resnet50,pretrained=true are taken" in capsys.readouterr().err
    assert names_for(pretrained, 7, None) == list("0123456")
    own = SavedModel(f"{MLP},weights={run}/best.safetensors")
    assert names_for(own, 1000, None)[0] == "0", "a run's weights are not taken for ImageNet's"
    assert names_for(pretrained, 2, ("a", "b")) == ("a", "b")


def test_a_batch_size_that_is_tried_changes_no_class(run: Path, tmp_path: Path) -> None:
    for size in ("64", "auto"):
        kdcache("predict", run, "-o", tmp_path / f"{size}.csv", "--batch-size", size, *PLACE)
    for row, other in zip(table(tmp_path / "64.csv"), table(tmp_path / "auto.csv"), strict=True):
        assert row[0::2][:1] + row[1::2] == other[0::2][:1] + other[1::2]
