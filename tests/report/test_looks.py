"""What a report works out from weights and data: scores by class, confusions, examples of views."""

import base64
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from box_caches import DATA as BOXES
from box_caches import box_cache
from box_caches import trained as trained_detector
from command_line import kdcache_json
from forged_runs import forged_run
from map_caches import DATA as MAPS
from map_caches import EVAL, STUDENT, TEACHER, made
from PIL import Image
from runs import DIGITS, IN_PROCESS, MLP, dump, train

from kdcache.cache import open_cache
from kdcache.cache.source import views_of
from kdcache.report import page
from kdcache.report.classes import evaluated_scores
from kdcache.report.config import ReportConfig
from kdcache.report.example import Example
from kdcache.report.examples import looked_at
from kdcache.report.groups import Group, grouped
from kdcache.report.page import write_report
from kdcache.report.runs import read_runs
from kdcache.runtime.console import say

PLACE = ("--workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a cache of digits, and runs of two losses and two run seeds."""
    folder = tmp_path_factory.mktemp("looks")
    dump(folder / "cache")
    for loss in ("ce", "dist"):
        for seed in (0, 1):
            run = folder / "runs" / f"{loss}{seed}"
            settings = {"cache": str(folder / "cache"), "eval_data": DIGITS, "loss": loss}
            train(run, **settings, run_seed=seed)
    return folder


def groups_in(folder: Path) -> list[Group]:
    return grouped(read_runs([str(folder / "runs")]))


def test_scores_by_class_are_means_of_those_of_evaluate(folder: Path) -> None:
    groups = groups_in(folder)
    all_scores, problems = evaluated_scores(groups, IN_PROCESS)
    assert [*all_scores] == [group.name for group in groups] and not problems
    group = groups[0]
    scores = all_scores[group.name]
    told = [kdcache_json("evaluate", run.folder, *PLACE)["scores"] for run in group.runs]
    for name, value in scores.values.items():
        expected = [each[f"accuracy/{name}"] for each in told]
        assert value.mean == pytest.approx(np.mean(expected)) and value.count == 2
    for name, share in scores.confusions.items():
        assert share == pytest.approx(sum(each.get(f"taken/{name}", 0) for each in told) / 2)
    for label, value in scores.values.items():
        wrong = [s for pair, s in scores.confusions.items() if pair.startswith(f"{label} as ")]
        assert value.mean + sum(wrong) == pytest.approx(100), "a row of the table is all samples"


def test_a_run_that_cannot_be_evaluated_leaves_the_scores_of_its_line(
    folder: Path, tmp_path: Path
) -> None:
    for name in ("ce0", "ce1"):
        shutil.copytree(folder / "runs" / name, tmp_path / "runs" / name)
    for name in ("best.safetensors", "student.safetensors"):
        (tmp_path / "runs" / "ce0" / name).unlink()
    all_scores, problems = evaluated_scores(groups_in(tmp_path), IN_PROCESS)
    assert {value.count for value in all_scores["ce"].values.values()} == {1}
    assert "runs/ce0" in problems[0] and "has no weights yet" in problems[0]
    assert problems[1] == "Scores by class of ce are means over 1 of its 2 finished runs."


def test_what_all_runs_have_to_say_of_their_data_comes_once(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def noted(groups: Any, compute: Any) -> Any:
        for _ in range(2):
            say("note: line 1 is taken for the names of the columns")
        return {}, []

    monkeypatch.setattr(page, "evaluated_scores", noted)
    runs, out = (str(folder / "runs"),), str(tmp_path / "page.html")
    write_report(ReportConfig(runs=runs, out=out, evaluate=True, compute=IN_PROCESS))
    assert capsys.readouterr().err.count("is taken for the names") == 1


def test_a_run_without_evaluation_data_is_told_in_words_of_the_page(tmp_path: Path) -> None:
    forged_run(tmp_path / "runs" / "a", [{}])
    scores, (problem,) = evaluated_scores(groups_in(tmp_path), IN_PROCESS)
    assert not scores and "trained without evaluation data, eval_data" in problem
    assert "--data" not in problem


def test_examples_are_the_views_and_what_is_said_of_them(folder: Path) -> None:
    groups = groups_in(folder)
    views = looked_at(groups, IN_PROCESS)
    assert not views.problems and len(views.examples) == 6
    cache = open_cache(folder / "cache")
    dataset = views_of(cache, DIGITS, size=cache.manifest.input_size)
    for row, example in enumerate(views.examples[:3]):
        batch = dataset.batch([(row, 0)])
        data = base64.b64decode(example.image.removeprefix("data:image/png;base64,"))
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(data))), batch.views[0][0, 0]
        )
        assert example.label == str(int(batch.labels.first[0]))
        teacher, *students = example.answers
        probabilities = cache.codec.decode(cache.read(0, [row])).probs(1.0)[0]
        best = int(probabilities.argmax())
        assert teacher.top[0] == (str(best), pytest.approx(float(probabilities[best])))
        assert teacher.is_right == (str(best) == example.label)
        assert [student.who for student in students] == ["ce", "dist"]
        assert all(0 <= share <= 1 for student in students for _, share in student.top)


def test_the_teacher_by_class_is_that_of_the_records(folder: Path) -> None:
    views = looked_at(groups_in(folder), IN_PROCESS)
    cache = open_cache(folder / "cache")
    dataset = views_of(cache, DIGITS, size=cache.manifest.input_size)
    num_views = sum(value.count for value in views.accuracy.values())
    rows = list(range(num_views))
    labels = dataset.batch([(row, 0) for row in rows]).labels.first.numpy()
    probabilities = cache.codec.decode(cache.read(0, rows)).probs(1.0).numpy()
    assert set(views.accuracy) == set(views.confidence) == set(map(str, np.unique(labels)))
    for name, confidence in views.confidence.items():
        of_class = probabilities[labels == int(name)]
        assert confidence.mean == pytest.approx(100 * of_class.max(1).mean())
        share = np.mean(of_class.argmax(1) == int(name))
        assert views.accuracy[name].mean == pytest.approx(100 * share)


def test_the_page_has_it_all(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(ReportConfig(runs=(str(folder / "runs"),), out=str(out), compute=IN_PROCESS))
    text = out.read_text()
    for words in ("Confusion", "Calibration error", "overconfident", "data:image/png;base64,"):
        assert words in text
    assert text.count('<div class="panel view">') == 6 and 'class="note"' not in text


def test_data_and_weights_that_are_gone_are_told_in_sentences(folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(folder / "runs" / "ce0", runs / "a")
    for name in ("best.safetensors", "student.safetensors"):
        (runs / "a" / name).unlink()
    forged_run(runs / "b", [{"top1": 50.0}], data="imagefolder:/nowhere", eval_data="imagefolder:/x",
               cache="/nowhere", recipe=None, student="timm:test_vit")  # fmt: skip
    out = tmp_path / "report.html"
    write_report(ReportConfig(runs=(str(runs),), out=str(out), compute=IN_PROCESS))
    text = out.read_text()
    assert "has no weights yet" in text and "/x" in text and "No scores by class of" in text
    assert "in the examples" in text
    assert text.count("data:image/png") >= 3, "views are shown without that student"


def page_of(runs: Path, *, evaluate: bool | None) -> str:
    """Return the text of the page on some runs."""
    out = runs / "report.html"
    config = ReportConfig(runs=(str(runs),), out=str(out), evaluate=evaluate, compute=IN_PROCESS)
    write_report(config)
    return out.read_text()


def test_scores_of_maps_are_those_recorded_until_they_are_asked_for(
    folder: Path, tmp_path: Path, recipe: str
) -> None:
    """Those of digits beside them, which record none by class, are evaluated in both cases."""
    settings: dict[str, Any] = {"data": MAPS, "recipe": recipe, "eval_data": EVAL, "loss": "ce"}
    train(tmp_path / "maps", **settings, student=STUDENT, epochs=1, batch_size=8)
    shutil.copytree(folder / "runs" / "ce0", tmp_path / "digits")
    scores = kdcache_json("evaluate", tmp_path / "maps", *PLACE)["scores"]
    metrics = tmp_path / "maps" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    name = next(name for name in scores if name.startswith("iou/"))
    lines[-1][name] = 12.34
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    by_default = page_of(tmp_path, evaluate=None)
    assert "12.34" in by_default and "report --evaluate does it" in by_default
    assert "Calibration error" in by_default, "digits are evaluated"
    evaluated = page_of(tmp_path, evaluate=True)
    assert f"{scores[name]:.2f}" in evaluated and "12.34" not in evaluated
    assert "--evaluate" not in evaluated and "Calibration error" in evaluated


def sizes_of(examples: Sequence[Example]) -> list[tuple[int, int]]:
    sizes = []
    for example in examples:
        data = base64.b64decode(example.image.removeprefix("data:image/png;base64,"))
        sizes.append(Image.open(io.BytesIO(data)).size)
    return sizes


@pytest.fixture
def mapped(tmp_path: Path) -> Path:
    """Return a folder with a run on odd and even digits, whose teacher knows ten digits."""
    parity = "tiny_models:parity"
    dump(tmp_path / "cache", data=parity, teacher_classes=10)
    (tmp_path / "map.csv").write_text("".join(f"{digit % 2},{digit}\n" for digit in range(10)))
    (tmp_path / "names.txt").write_text("".join(f"digit {digit}\n" for digit in range(10)))
    cache = f"{tmp_path}/cache,classes={tmp_path}/map.csv,names={tmp_path}/names.txt"
    settings = {"cache": cache, "student": f"{MLP},classes=2", "epochs": 1}
    train(tmp_path / "runs" / "dist", **settings, data=parity, eval_data=parity)
    return tmp_path


def test_a_teacher_of_other_classes_is_told_by_their_names_and_judged_through_the_map(
    mapped: Path,
) -> None:
    views = looked_at(groups_in(mapped), IN_PROCESS)
    assert not views.problems and len(views.examples) == 6
    assert "through the map of classes" in views.caption and "disagree most" in views.caption
    cache = open_cache(mapped / "cache")
    for example, row in zip(views.examples[:3], range(3), strict=True):
        teacher, student = example.answers
        logits = cache.codec.decode(cache.read(0, [row])).logits()[0]
        assert teacher.top[0][0] == f"digit {int(logits.argmax())}"
        probabilities = torch.softmax(logits, dim=0)
        is_odd = probabilities[1::2].sum() > probabilities[0::2].sum()
        assert teacher.is_right == (int(is_odd) == int(example.label))
        assert {name for name, _ in student.top} == {"0", "1"}
    assert set(views.confidence) == {"0", "1"}


def test_a_map_that_is_gone_leaves_the_names_of_a_teachers_classes(mapped: Path) -> None:
    (mapped / "map.csv").unlink()
    views = looked_at(groups_in(mapped), IN_PROCESS)
    (problem,) = views.problems
    assert problem.startswith("The teacher is compared with no label: class map")
    for example in views.examples:
        teacher = example.answers[0]
        assert teacher.is_right is None and teacher.top[0][0].startswith("digit ")
    assert not views.confidence and "disagree" not in views.caption


def test_maps_of_teacher_and_students_are_drawn(tmp_path: Path, recipe: str) -> None:
    cache = str(tmp_path / "cache")
    made(tmp_path / "cache", recipe)
    settings: dict[str, Any] = {"cache": cache, "data": MAPS, "student": STUDENT, "epochs": 1}
    train(tmp_path / "runs" / "a", **settings, batch_size=16)
    forged_run(tmp_path / "runs" / "b", [{"miou": 50.0}], recipe=None, student=STUDENT,
               cache=cache, data=MAPS, run_seed=3, label_smoothing=0.1)  # fmt: skip
    groups = groups_in(tmp_path)
    views = looked_at(groups, IN_PROCESS)
    labels = [example.label for example in views.examples]
    assert len(labels) == 6 and labels[0].startswith("teacher is sure by")
    assert labels[1].startswith(f"{groups[0].name} is sure by") and labels[0] != labels[1]
    assert min(min(size) for size in sizes_of(views.examples)) > 100
    (problem,) = views.problems
    assert groups[1].name in problem and "has no weights yet" in problem


def test_a_map_of_classes_that_is_gone_leaves_the_pictures_of_maps(
    tmp_path: Path, recipe: str
) -> None:
    made(tmp_path / "cache", recipe, teacher=f"{TEACHER},classes=7", teacher_classes=7)
    cache = f"{tmp_path}/cache,classes={tmp_path}/gone.csv"
    forged_run(tmp_path / "runs" / "a", [{"miou": 50.0}], recipe=None, student=STUDENT,
               cache=cache, data=MAPS)  # fmt: skip
    views = looked_at(groups_in(tmp_path), IN_PROCESS)
    assert [example.label[:7] for example in views.examples] == ["teacher"] * 3
    assert any("gone.csv" in problem for problem in views.problems)


def test_boxes_of_teacher_and_students_are_drawn(tmp_path: Path, box_recipe: str) -> None:
    cache = box_cache(tmp_path / "cache", box_recipe)
    trained_detector(tmp_path / "runs" / "a", cache=cache, epochs=1)
    forged_run(tmp_path / "runs" / "b", [{"ap": 50.0}], cache=cache, recipe=None, data=BOXES)
    groups = groups_in(tmp_path)
    views = looked_at(groups, IN_PROCESS)
    labels = [example.label for example in views.examples]
    assert len(labels) == 6 and labels[0].startswith("teacher is sure by")
    assert labels[1].startswith(f"{groups[0].name} ")
    assert min(min(size) for size in sizes_of(views.examples)) > 100
    (problem,) = views.problems
    assert groups[1].name in problem and "has no weights yet" in problem


def test_a_student_that_fails_leaves_the_pictures_of_the_teacher(
    tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "cache")
    made(tmp_path / "cache", recipe)
    settings: dict[str, Any] = {"cache": cache, "data": MAPS, "student": STUDENT, "epochs": 1}
    train(tmp_path / "runs" / "a", **settings, batch_size=16)
    config = tmp_path / "runs" / "a" / "config.toml"
    changed = config.read_text().replace("tiny_models:segmenter", "tiny_models:fragile_segmenter")
    config.write_text(changed)
    views = looked_at(groups_in(tmp_path), IN_PROCESS)
    assert [example.label[:7] for example in views.examples] == ["teacher"] * 3
    (problem,) = views.problems
    assert "in the examples: a student on views of its cache fails" in problem
