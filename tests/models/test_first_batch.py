"""Models of one's own: whatever they raise or give is one line, before the first step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from map_caches import DATA, EVAL, made
from runs import CONV, dump, run_epoch, train, train_config

from kdcache.cache import create_cache
from kdcache.codec_error.measure import CodecErrorConfig, measure_codec_error
from kdcache.dump.config import DumpConfig
from kdcache.dump.job import prepare
from kdcache.dump.worker import look_at_teacher
from kdcache.errors import KdcacheError, MismatchError, ModelError, UsageError
from kdcache.models.first_batch import check_gradients
from kdcache.models.model import open_model
from kdcache.tasks.class_program import ExportedClassifier
from kdcache.train.plan import plan_training
from kdcache.train.trainer import Trainer
from kdcache.views import load_recipe

FEW = "tiny_models:few_digits,length=64"
SHORT: dict[str, Any] = {"data": FEW, "recipe": "digits", "loss": "ce", "batch_size": 32}


def told(call: Any, *, error: type[KdcacheError] = ModelError) -> str:
    """Return the one line of the error that `call` raises."""
    with pytest.raises(error) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500
    return line


def opened(spec: str, trained: bool = False) -> None:
    open_model(f"broken_models:{spec}", classes=10, recipe=load_recipe("digits"), trained=trained)


@pytest.mark.parametrize(
    ("spec", "error", "wanted"),
    [
        ("needs", UsageError, "needs a value of width, depth, which has no default; write "),
        ("needs,width=3", UsageError, "write broken_models:needs,width=...,depth=..."),
        ("fails", ModelError, "fails: LookupError: no file of weights (broken_models.py, line"),
        ("number", ModelError, "gave 3; the function must return a torch.nn.Module"),
        (
            "class_only",
            ModelError,
            "gave an object of class type; the function must return a torch.nn.Module",
        ),
        ("changed,how=index_error", ModelError, "fails: IndexError: list index out of range"),
        ("changed,how=key_error", ModelError, "fails: KeyError: 'stage4' (broken_models.py, li"),
        ("changed,how=none", ModelError, "gives a NoneType, not logits; let it return these alone"),
        ("changed,how=pair", ModelError, "gives a tuple of 2, first float32 (1, 10), not logits"),
        ("changed,how=table", ModelError, "gives a dict of scores, features, not logits"),
        ("changed,how=named_none", ModelError, "gives a dict of logits, not logits"),
        ("changed,how=squeezed", ModelError, "gives float32 (10,); wanted for 1 views are raw"),
        ("changed,how=maps", ModelError, "gives float32 (1, 10, 1, 1); wanted for 1 views"),
        ("changed,how=classes", ModelError, "gives int64 (1,); wanted for 1 views are raw logits"),
        ("changed,how=numbers", ModelError, "gives int64 (1, 10); wanted for 1 views are raw"),
        ("changed,how=few", ModelError, "gives 7 classes, and 10 are asked for"),
        ("changed,how=many_rows", ModelError, "gives float32 (2, 10); wanted for 1 views"),
        ("extra", ModelError, "has a dict of step as _extra_state in its state; wanted are plain"),
    ],
)
def test_a_model_of_ones_own_that_cannot_be_used_is_told_when_it_is_opened(
    spec: str, error: type[KdcacheError], wanted: str
) -> None:
    assert wanted in told(lambda: opened(spec), error=error)


def test_a_module_may_name_its_logits_as_those_of_transformers_do() -> None:
    model = open_model(
        "broken_models:changed,how=named", classes=10, recipe=load_recipe("digits"), trained=False
    )
    views = torch.zeros((2, 1, 8, 8), dtype=torch.uint8)
    named = model.module(model._normalised(views))
    assert torch.equal(model(views), named["logits"])
    exported = ExportedClassifier(model, gives_logits=True)
    assert torch.allclose(exported(views), named["logits"])


@pytest.mark.parametrize(
    ("student", "wanted"),
    [
        ("frozen", "cannot be trained: its parameters are all frozen"),
        ("empty", "cannot be trained: its parameters are none at all"),
        ("changed,how=detached", "gives logits that depend on none of its parameters; leave out"),
        ("changed,how=not_a_number", "gives NaN or infinite logits on its first batch"),
        ("changed,how=index_error,only_in_training=true", "fails: IndexError: list index out"),
        ("changed,how=pair,only_in_training=true", "gives a tuple of 2"),
        ("changed,how=few,only_in_training=true", "gives logits of shape (7,) per view, and (10,)"),
        ("changed,how=one_row,only_in_training=true", "gives float32 (10,); wanted for 32 views"),
        ("changed,how=in_place", "fails: RuntimeError: one of the variables needed for gradient"),
    ],
)
def test_a_student_that_cannot_learn_is_told_before_the_first_step(
    tmp_path: Path,
    student: str,
    wanted: str,
) -> None:
    config = train_config(tmp_path / "run", **SHORT, student=f"broken_models:{student}")
    assert wanted in told(lambda: plan_training([config]))
    assert not (tmp_path / "run").exists()


SOFTMAX = "gives rows that sum to 1: probabilities and not logits"
NOTES = [
    ("softmax", SOFTMAX),
    ("sigmoid", "gives values between 0 and 1 only, as after a sigmoid"),
    ("constant", "gives all classes the same logit, for every view; are its weights loaded?"),
    ("same", "gives the same logits for every view of its first batch"),
    ("log_softmax", ""),
]


@pytest.mark.parametrize(("how", "note"), NOTES)
def test_logits_that_are_none_are_told_once(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    how: str,
    note: str,
) -> None:
    model = f"broken_models:changed,how={how},mean=0.5,std=0.25"
    dump(tmp_path / "cache", teacher=model, data=FEW, batch_size=32, codec="full:dtype=float32")
    assert notes(capsys) == [note] * bool(note)
    trainer = Trainer(train_config(tmp_path / "run", **SHORT, student=model))
    run_epoch(trainer, Forgotten())
    assert notes(capsys) == [note] * bool(note)
    online = {**SHORT, "loss": "kl", "teacher": model, "epochs": 1}
    train(tmp_path / "b", **online, student=f"{CONV},seed=1")
    assert notes(capsys) == [note] * bool(note)


def test_an_engine_of_workers_elsewhere_looks_at_a_few_views_itself(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = "broken_models:changed,how=softmax,mean=0.5,std=0.25"
    cache = str(tmp_path / "cache")
    job = prepare(DumpConfig(cache=cache, data=FEW, teacher=model, recipe="digits"))
    look_at_teacher(job, create_cache(cache, job.manifest), (0, 0))
    assert notes(capsys) == [SOFTMAX]


def test_a_parameter_without_a_gradient_is_named() -> None:
    student = open_model("broken_models:unused", classes=10, recipe=load_recipe("digits"))
    student(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).sum().backward()
    with pytest.raises(ModelError, match=r"does not use its parameter spare\.weight, which"):
        check_gradients(student)
    student.module.get_submodule("spare").requires_grad_(False)
    check_gradients(student)


class Forgotten:
    def write(self, line: Any) -> None:
        pass


def notes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return what was said about models since, each as it is in `NOTES`."""
    told = capsys.readouterr().err.splitlines()
    lines = [line for line in told if line.startswith("note: model")]
    return [next(note for _, note in NOTES if note and note in line) for line in lines]


def test_a_student_whose_last_layer_starts_at_zero_is_in_order(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = train_config(tmp_path / "run", **SHORT, student="broken_models:starts_at_zero")
    run_epoch(Trainer(config), Forgotten())
    assert notes(capsys) == []


def test_a_teacher_in_the_loop_that_gives_nan_is_told_at_its_first_batch(tmp_path: Path) -> None:
    teacher = "tiny_models:poisoned,mean=0.5,std=0.05"
    settings = {**SHORT, "loss": "kl", "teacher": teacher}
    line = told(lambda: train(tmp_path / "run", **settings))
    assert f"{teacher} gives NaN or infinite logits on its first" in line


def test_a_teacher_that_fails_on_a_batch_is_told(tmp_path: Path) -> None:
    teacher = "broken_models:changed,how=index_error,only_in_training=true"
    opened(teacher.partition(":")[2], trained=True)  # it is never in training
    line = told(lambda: dump(tmp_path / "cache", teacher="tiny_models:batch_of_one", data=FEW))
    assert "model tiny_models:batch_of_one on a batch of 64 views fails: KeyError: 'rows'" in line


def test_probabilities_in_a_file_are_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import numpy as np

    logits = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    rows = {"teacher": logits.softmax(1).numpy(), "student": logits.roll(1, 0).numpy()}
    np.savez(tmp_path / "a.npz", **rows)
    config = CodecErrorConfig(logits=str(tmp_path / "a.npz"), codec=("topk:k=2",), batch_size=(16,))
    measure_codec_error(config)
    assert f"note: {tmp_path}/a.npz {SOFTMAX}" in capsys.readouterr().err


def test_a_student_that_fails_on_whole_images_is_told_before_the_first_epoch(
    tmp_path: Path,
    recipe: str,
) -> None:
    made(tmp_path / "cache", recipe)
    settings = {"cache": str(tmp_path / "cache"), "data": DATA, "batch_size": 8, "eval_data": EVAL}
    config = train_config(tmp_path / "run", **settings, student="broken_models:whole_images")
    line = told(lambda: Trainer(config))
    assert "a model on evaluation views of 24x40 fails: ValueError: positions up to 16" in line


def test_a_teacher_for_missing_views_has_the_options_of_the_dump(tmp_path: Path) -> None:
    made = "tiny_models:scaled,factor=2,mean=0.5,std=0.25"
    dump(tmp_path / "cache", data=FEW, teacher=made, seeds="0:1", unit_rows=32, batch_size=32)
    (tmp_path / "cache/commits/00000/000001.json").unlink()
    settings: dict[str, Any] = {"data": FEW, "cache": str(tmp_path / "cache"), "batch_size": 32}
    settings |= {"on_miss": "teacher", "epochs": 1, "seeds": "0:1"}
    train(tmp_path / "run", **settings, teacher=made)
    other = "tiny_models:scaled,factor=3,mean=0.5,std=0.25"
    line = told(lambda: train(tmp_path / "b", **settings, teacher=other), error=MismatchError)
    assert "was made with tiny_models:scaled,factor=2: the same weights give other logits" in line


def test_modules_that_cannot_be_imported_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = {
        "lacks_library": "import no_such_library_here",
        "has_a_slip": "def build(:",
        "is_a_program": "raise SystemExit(3)",
        "divides": "x = 1 / 0",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}_kd.py").write_text(f"{text}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    wanted = {
        "lacks_library_kd": "fails: ModuleNotFoundError: No module named 'no_such_library_here'",
        "has_a_slip_kd": "import of module has_a_slip_kd fails: SyntaxError: invalid syntax",
        "is_a_program_kd": "import of module is_a_program_kd ends the program (SystemExit: 3)",
        "divides_kd": "fails: ZeroDivisionError: division by zero (divides_kd.py, line 1)",
    }
    recipe = load_recipe("digits")
    for name, line in wanted.items():
        found = told(lambda name=name: open_model(f"{name}:build", classes=10, recipe=recipe))
        assert line in found
    found = told(lambda: open_model("mine.py:build", classes=10, recipe=recipe), error=UsageError)
    assert "write mine:function, without .py" in found
