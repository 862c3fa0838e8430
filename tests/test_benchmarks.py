"""The benchmarks run: on next to nothing, so that the numbers mean nothing here, but on the product
as it is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nursery import script
from runs import dump

ROOT = Path(__file__).parent.parent
TINY = ["--size", "32", "--batch", "4", "--views", "8", "--repetitions", "1"]
MODELS = ["--student", "test_resnet", "--teacher", "test_resnet"]


def benchmark(folder: Path, name: str, *words: str) -> str:
    code, out, err = script(ROOT / "benchmarks" / f"{name}.py", *words, folder=folder).end(300)
    assert code == 0, err
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "keys"),
    [
        ("epoch", [*TINY, *MODELS], ["full", "topk", "ideal"]),
        (
            "side_by_side",
            [
                *TINY,
                *("--student", "workload:perceptron,mean=0.5,std=0.25,size=32,input_size=32"),
            ],
            ["students", "together_over_one"],
        ),
        (
            "dump",
            [*TINY, "--heavy", "test_resnet", "--light", "test_vit"],
            ["test_resnet", "test_vit"],
        ),
        (
            "views",
            ["--views", "4", "--batch", "4", "--repetitions", "1"],
            ["eval-whole", "imagenet-b3", "decodes_per_view"],
        ),
        (
            "losses",
            ["--shapes", "6x5", "--repetitions", "1"],
            ["6x5", "times_as_fast", "error_of_gradient", "operators", "megabytes"],
        ),
    ],
)
def test_a_benchmark_of_whole_commands_runs(
    tmp_path: Path, name: str, words: list[str], keys: list[str]
) -> None:
    result: dict[str, Any] = json.loads(benchmark(tmp_path, name, *words, "--json"))
    assert (
        set(keys) <= set(json.dumps(result).replace('"', " ").split())
        and result["machine"]["cores"]
    )


@pytest.mark.slow
def test_large_caches_are_simulated(tmp_path: Path) -> None:
    result = json.loads(
        benchmark(
            tmp_path, "scale", "--rows", "40000", "--seeds", "20", "--unit-rows", "1000", "--json"
        )
    )
    cases = [case for name, case in result.items() if name != "machine"]
    assert all(case["open"]["objects"] == 1 and "heads" not in case["open"] for case in cases)
    assert [case["commits of a seed"]["commits"] for case in cases] == [40, 4, 40, 10]


@pytest.mark.slow
def test_codecs_are_timed_and_measured_over_splits(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    head, features = generator.normal(size=(120, 8)), generator.normal(size=(700, 8))
    student = (features + generator.normal(size=features.shape)) @ head.T
    path = tmp_path / "logits.npz"
    np.savez(
        path, teacher=features @ head.T, student=student, image_id=np.arange(700) // 7, head=head
    )
    speed = json.loads(benchmark(tmp_path, "codecs", str(path), "--repetitions", "1", "--json"))
    assert speed["codecs"]["lowrank:step=2.0"]["encode_views_per_second"]["min"] > 0
    words = ("--splits", "2", "--codec", "lowrank:bytes=8", "--without-head", "--json")
    result = json.loads(benchmark(tmp_path, "codecs", str(path), *words))
    first, second = (split["bytes"] for split in result["splits"])
    assert not result["head"] and first != second and 6 < result["means"]["bytes"][0] < 10


@pytest.mark.slow
def test_students_of_a_stack_are_those_trained_alone(tmp_path: Path) -> None:
    """The training study rests on it: its students train side by side, and must be those of
    `train-student`."""
    dump(tmp_path / "cache", data="tiny_models:few_digits", codec="full:dtype=float32", seeds="0:2")
    data = [
        "--data",
        "tiny_models:few_digits",
        "--eval-data",
        "tiny_models:few_digits",
        "--cache",
        str(tmp_path / "cache"),
    ]
    student = [
        "--student",
        "tiny_models:perceptron,mean=0.5,std=0.25",
        "--out",
        str(tmp_path / "out"),
    ]
    few = [
        "--codecs",
        "full:dtype=float32",
        "--taus",
        "4",
        "--epochs",
        "1",
        "--batch",
        "16",
        "--lr",
        "0.02",
    ]
    lines = benchmark(tmp_path, "training_study", *data, *student, *few, "--check").splitlines()
    lines = [line for line in lines if "alone" in line]
    assert len(lines) == 3, "labels only, DIST and KL"
    for line in lines:
        assert float(line.rpartition(" ")[2]) < 1e-3, lines  # float32, summed in another order


@pytest.mark.slow
def test_reading_and_epochs_of_maps_are_measured(tmp_path: Path) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        'mode = "RGB"\nsize = [16, 24]\neval = "segmentation-eval"\n[[transforms]]\nname ='
        ' "RandomCrop"\nsize = "input"\n'
    )
    settings: dict[str, Any] = {
        "data": "segmentation_files:Shapes",
        "teacher": "tiny_models:segmenter",
        "recipe": str(recipe),
    }
    dump(
        tmp_path / "cache",
        **settings,
        codec="full:dtype=float32",
        seeds="0:2",
        unit_rows=4,
        batch_size=4,
    )
    words = (
        str(tmp_path / "cache"),
        "--student",
        "tiny_models:segmenter",
        "--repetitions",
        "1",
        "--batch",
        "4",
        "--window",
        "2",
    )
    result = json.loads(benchmark(tmp_path, "map_epoch", *words, "--json"))
    assert (
        result["reading"]["windows_over_plain"]["wall"]["min"] > 0
        and result["epochs"]["windows_over_labels"]["wall"]["min"] > 0
    )
    one, two, four, eight = (result["dist_megabytes"][str(views)] for views in (1, 2, 4, 8))
    # what is worked on at a time stays as it is
    assert eight - four == pytest.approx(2 * (four - two), rel=0.05) and two > one > 0


@pytest.mark.slow
def test_codecs_of_a_detector_are_measured(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    levels = np.array([(6, 4), (3, 2)])
    arrays = {
        name: generator.normal(size=(16, 30, 5)).astype(np.float32)
        for name in ("teacher", "mirrored", "blurred")
    }
    np.savez(tmp_path / "logits.npz", levels=levels, **arrays)
    file = str(tmp_path / "logits.npz")
    out = benchmark(tmp_path, "detection_codecs", file, "--json")
    result = json.loads(out)
    assert result["views"] == 8 and result["positions"] == 30
    for case in result["codecs"].values():
        assert case["bytes_per_position"] > 0
        assert 0 < case["errors"]["DIST, tau 1"]["early"] < 1


@pytest.mark.slow
def test_a_detection_cache_is_measured_at_a_size(tmp_path: Path) -> None:
    detector = "tiny_detectors:retinanet,mean=0.5,std=0.25"
    sizes = ("--classes", "3", "--canvas", "50x64", "--views", "4", "--repetitions", "1")
    result = json.loads(benchmark(tmp_path, "detection", "--model", detector, *sizes, "--json"))
    assert result["settings"]["canvas"] == "(64, 64)"
    assert result["codecs"]["positions"] == 160
    assert result["codecs"]["milliseconds_per_view"]["cosine, decode"]["wall"]["min"] > 0
    assert result["dump"]["rate_over_bare"]["wall"]["min"] > 0
    assert result["epoch"]["slabs_over_labels"]["wall"]["min"] > 0
    assert result["reading"]["windows_over_plain"]["wall"]["min"] > 0
