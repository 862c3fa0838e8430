"""The benchmarks run: on next to nothing, so that the numbers mean nothing here, but on the product
as it is."""

import importlib
import json
import math
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nursery import script
from runs import dump

from kdcache.losses import dist_loss

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
            "batch_size",
            [
                *("--teachers", "test_resnet", "--inputs", "small", "--workers", "0"),
                *("--batches", "2", "4", "--views", "2", "--repetitions", "1"),
            ],
            ["test_resnet", "milliseconds", "time_over_4", "megabytes"],
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
def test_how_time_and_memory_grow_is_measured_on_simulated_caches(tmp_path: Path) -> None:
    words = ("--axes", "seeds", "workers", "--most", "10", "--repetitions", "1", "--json")
    plot = tmp_path / "curves.png"
    axes = json.loads(benchmark(tmp_path, "curves", *words, "--plot", str(plot)))["axes"]
    of_seeds = {name: points["10"] for name, points in axes["seeds"]["actions"].items()}
    assert of_seeds["open"]["requests"] == {"objects": 1}
    assert of_seeds["first batch"]["requests"]["commits"] == 2, "those of one seed"
    assert of_seeds["verify"]["requests"]["commits"] == 20
    assert all(point["cpu"] > 0 and point["megabytes"] > 0 for point in of_seeds.values())
    assert [*axes["workers"]["actions"]["plan"]] == ["1", "10"]
    assert plot.stat().st_size > 0


@pytest.mark.slow
def test_other_ways_to_keep_logits_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    logits_file(path)
    words = ("--images", "256", "--repetitions", "1", "--kills", "1", "--check", "--json")
    code, out, err = script(
        ROOT / "benchmarks" / "peers.py", str(path), *words, folder=tmp_path
    ).end(300)
    assert code in (0, 1), err  # goals are for 1,000 classes and a quiet machine
    result = json.loads(out)
    assert len(result["goals"]) == 7
    assert result["variants"]["raw entries, k=10"]["bytes"] == 53
    for name, case in result["variants"].items():
        assert case["random"]["wall"]["min"] > 0 and case["pass"]["wall"]["min"] > 0
        (kill,) = result["kills"][name]["kills"]
        assert kill["right"] <= kill["given"] and not kill["wrong"]
        is_whole = kill["right"] == kill["given"]  # killed just after a commit
        assert kill["pass_raises"] or is_whole or "kdcache" not in name


def logits_file(path: Path) -> None:
    generator = np.random.default_rng(0)
    head, features = generator.normal(size=(120, 8)), generator.normal(size=(700, 8))
    student = (features + generator.normal(size=features.shape)) @ head.T
    arrays = {"teacher": features @ head.T, "student": student, "head": head}
    np.savez(path, image_id=np.arange(700) // 7, **arrays)


@pytest.mark.slow
def test_codecs_are_timed_and_measured_over_splits(tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    logits_file(path)
    speed = json.loads(benchmark(tmp_path, "codecs", str(path), "--repetitions", "1", "--json"))
    assert speed["codecs"]["lowrank:step=2"]["encode_views_per_second"]["min"] > 0
    words = ("--splits", "2", "--codec", "lowrank:bytes=8", "--without-head", "--json")
    result = json.loads(benchmark(tmp_path, "codecs", str(path), *words))
    first, second = (split["bytes"] for split in result["splits"])
    assert not result["head"] and first != second and 6 < result["means"]["bytes"][0] < 10


def test_the_least_bytes_are_those_of_reverse_water_filling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit = imported(monkeypatch, "codec_limit").Limit
    variances = torch.tensor([[4.0, 1.0, 0.1]], dtype=torch.float64)
    costs = torch.ones_like(variances)
    # noise of 1/4, 1/4 and all of the last: log2(4) and log2(2) bits
    assert limit(variances, costs).least_bytes(0.6) == pytest.approx(3 / 8)
    assert limit(variances, 2 * costs).least_bytes(1.2) == pytest.approx(3 / 8)
    assert limit(variances, costs).least_bytes(5.1) == pytest.approx(0, abs=1e-6)


def test_the_gradient_of_a_view_is_that_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(monkeypatch, "codec_limit")
    generator = torch.Generator().manual_seed(0)
    student, teacher, other = torch.randn(3, 12, 7, generator=generator) * 2
    batch = module.Batch(student, teacher, 4.0)
    changed = teacher.clone()
    changed[5] = other[5]
    leaf = student.clone().requires_grad_()
    loss = dist_loss(leaf, changed, beta=1.0, gamma=1.0, tau=4.0)
    (expected,) = torch.autograd.grad(loss, leaf)
    found = batch.gradient(changed[5].double(), 5)
    torch.testing.assert_close(found.float(), expected[5], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_what_a_codec_takes_is_set_beside_the_least(tmp_path: Path) -> None:
    path = tmp_path / "logits.npz"
    logits_file(path)
    words = ("--steps", "1", "--views", "6", "--errors", "0.1", "0.2", "--json")
    cases = json.loads(benchmark(tmp_path, "codec_limit", str(path), *words))["cases"]
    case = cases["lowrank:step=1"]
    assert (
        0 < case["energy"] <= case["gradient"] + 1e-6 and case["gradient"] < case["squared_error"]
    )
    assert case["gradient"] < case["entropy"] < case["bytes"]
    assert cases["error 0.1"]["gradient"] > cases["error 0.2"]["gradient"]


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
        "--teacher",
        "tiny_models:segmenter",
        "--repetitions",
        "1",
        "--batch",
        "4",
        "--window",
        "2",
    )
    result = json.loads(benchmark(tmp_path, "map_epoch", *words, "--json"))
    assert result["reading"]["windows_over_plain"]["wall"]["min"] > 0
    for name in ("slabs", "windows", "loop"):
        assert result["epochs"][f"{name}_over_labels"]["wall"]["min"] > 0
    one, two, four, eight = (result["dist_megabytes"][str(views)] for views in (1, 2, 4, 8))
    # what is worked on at a time stays as it is
    assert 0 < one < two < four < eight <= 2 * four


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


@pytest.mark.slow
def test_all_that_a_gpu_would_be_tried_on_runs_on_a_cpu(tmp_path: Path) -> None:
    words = ("--device", "cpu", "--sizes", "tiny", "--json", str(tmp_path / "gpu.json"))
    benchmark(tmp_path, "gpu", *words)
    result = json.loads((tmp_path / "gpu.json").read_text())
    rows = {}
    for name, part in result["parts"].items():
        assert part["status"] == "done", part
        rows[name] = part["rows"]
    assert len(rows) == 10 and result["machine"]["cores"]
    assert all(row["relative"] == 0 for row in rows["device and CPU: tasks"])
    assert all(row["bytes that differ"] == 0 for row in rows["device and CPU: codecs"])
    assert all(row["waits"] == 0 for row in rows["training steps"])
    assert {row["codec"] for row in rows["losses, 6 x 70"]} > {"none", "cosine"}


def imported(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """Return a module of the benchmarks."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module(name)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # which is tried
def test_a_part_that_fails_or_has_no_time_is_told_with_the_rows_that_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpu = imported(monkeypatch, "gpu")
    monkeypatch.setattr(gpu, "AGAIN_SECONDS", 0.3)
    bench = gpu.Bench(tmp_path, "cpu", gpu.SIZES["full"])

    def fails(_: Any) -> Iterator[dict[str, Any]]:
        yield {"what": "a row"}
        raise ValueError("broken")

    def lasts(_: Any) -> Iterator[dict[str, Any]]:
        yield {"what": "a row"}
        time.sleep(60)

    class Stubborn:
        def __del__(self) -> None:
            time.sleep(0.3)  # whatever is raised here is ignored

    def lasts_after(_: Any) -> Iterator[dict[str, Any]]:
        yield {"what": "a row"}
        del [Stubborn()][0]
        time.sleep(60)

    def differs(_: Any) -> Iterator[dict[str, Any]]:
        yield {"what": "a row", "fault": "far from the CPU"}

    cases = [
        (fails, 9.0, "failed", "ValueError: broken"),
        (lasts, 0.1, "left out", "the time was up in the middle of it"),
        (lasts_after, 0.1, "left out", "the time was up in the middle of it"),
        (differs, 9.0, "failed", "far from the CPU"),
    ]
    for run, seconds, status, reason in cases:
        outcome = gpu.run_part(gpu.Part("part", run, 0.0), bench, seconds)
        assert (outcome["status"], outcome["reason"]) == (status, reason)
        assert [row["what"] for row in outcome["rows"]] == ["a row"]
        if status == "failed":
            with pytest.raises(SystemExit, match="1"):
                gpu.sum_up({"part": outcome}, 1.0)
        else:
            gpu.sum_up({"part": outcome}, 1.0)
    late = gpu.run_part(gpu.Part("part", fails, 5.0), bench, 4.0)
    assert late["status"] == "left out" and not late["rows"]


def test_operators_and_waits_are_counted_and_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = imported(monkeypatch, "device_counts")
    values = torch.arange(6.0)

    def work() -> None:
        doubled = (2 * values).view(2, 3)  # a view is no work
        float(doubled.sum())
        values[values > 3]

    counted = counts.counted(work, torch.device("cpu"))
    assert counted.operators == 5, "a product, a sum, its value, a comparison, a choice"
    assert counted.waits.total() == 2 and counted.kernels is None
    assert all(place.startswith("test_benchmarks.py:") for place in counted.waits)
    assert (counted - counted).columns(1)["where it waits"] == "nowhere"


def test_waits_that_torch_warns_of_are_counted_by_their_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = imported(monkeypatch, "device_counts")
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work() -> None:
        for _ in range(2):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("another matter", UserWarning, stacklevel=1)

    (count,) = counts._waits(work).values()
    assert count == 2 and modes == ["warn", "default"]


def test_a_value_that_is_far_off_or_none_at_all_is_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = imported(monkeypatch, "gpu_paths")
    for value, is_fault in ((0.0, False), (0.1, False), (0.2, True), (math.nan, True)):
        row = paths.judged({"what": "dist", "relative": value}, {"relative": 0.1})
        assert bool(row["fault"]) is is_fault
