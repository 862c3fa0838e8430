"""Configuration: a file, flags over it, --set over both; what is saved reads back to the same."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.config.fields import build
from kdcache.config.files import dump_config, load_config
from kdcache.dump.run import DumpConfig
from kdcache.errors import UsageError
from kdcache.train.optim import OptimizerConfig
from kdcache.train.run import TrainConfig

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PATH = TEXT.map(lambda text: "x" + text.replace("~", "-"))
NUMBER = st.floats(0, 1e6)
FREE = st.integers(0, 9) | TEXT | st.lists(st.floats(0, 1), max_size=2)
COMPUTE = {
    "device": st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    "precision": st.sampled_from(["float32", "bfloat16", "float16"]),
    "channels_last": st.booleans(),
    "workers": st.integers(0, 64),
}
OPTIMIZER = {
    "name": TEXT,
    "lr": st.floats(1e-6, 1e3),
    "decay_norm_and_bias": st.booleans(),
    "options": st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), FREE, max_size=3),
}
SCHEDULE = {"warmup_epochs": NUMBER, "decay_milestones": st.lists(st.integers(0, 99), max_size=4)}
DUMP = {
    **dict.fromkeys(("cache", "data", "teacher", "recipe"), PATH),
    "batch_size": st.integers(1, 9999),
    "unit_rows": st.none() | st.integers(1, 99),
    "skip_unreadable": st.booleans(),
    "compute": st.fixed_dictionaries(COMPUTE),
}
TRAIN = {
    **dict.fromkeys(("run", "data", "student"), PATH),
    "cache": PATH,
    "eval_data": st.none() | PATH,
    "seeds": st.none() | st.just("0:3"),
    "clip_grad": st.none() | st.floats(0.1, 9),
    "optimizer": st.fixed_dictionaries({}, optional=OPTIMIZER),
    "schedule": st.fixed_dictionaries(SCHEDULE),
    "compute": st.fixed_dictionaries(COMPUTE),
}


@pytest.mark.parametrize(
    ("cls", "command", "fields"),
    [(DumpConfig, "dump-teacher", DUMP), (TrainConfig, "train-student", TRAIN)],
)
@given(data=st.data())
def test_a_saved_configuration_reads_back_to_the_same(
    tmp_path_factory: pytest.TempPathFactory,
    cls: Any,
    command: str,
    fields: dict[str, Any],
    data: st.DataObject,
) -> None:
    config = build(cls, data.draw(st.fixed_dictionaries(fields)), command)
    file = tmp_path_factory.getbasetemp() / "config.toml"
    file.write_text(dump_config(config, command), newline="")
    assert load_config(cls, command, file=str(file), flags={}) == config


MINIMAL = '[train-student]\nrun = "r"\ndata = "d"\nstudent = "s"\nrecipe = "digits"\nloss = "ce"\n'


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "run.toml"
    path.write_text(
        MINIMAL + "epochs = 5\n[train-student.optimizer]\nlr = 0.5\n[dump-teacher]\ncache = 'c'\n"
    )
    return str(path)


def load(file: str | None, *settings: str, **flags: Any) -> TrainConfig:
    return load_config(TrainConfig, "train-student", file=file, flags=flags, settings=settings)


def test_flags_and_settings_override_the_file(file: str) -> None:
    assert (load(file).epochs, load(file).optimizer.lr) == (5, 0.5)
    assert load(file, epochs=7).epochs == 7 and load(file, epochs=None).epochs == 5
    assert load(file, **{"optimizer.lr": 0.25}).optimizer == OptimizerConfig(lr=0.25)
    assert load(file, "epochs=9", "optimizer.lr=1") == load(file, epochs=9, **{"optimizer.lr": 1.0})
    assert load(file, "epochs=8", "epochs=9").epochs == 9


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("optimizer.name=adamw", lambda config: config.optimizer.name == "adamw"),
        ('optimizer.name="adamw"', lambda config: config.optimizer.name == "adamw"),
        (
            "optimizer.options.betas=[0.8, 0.9]",
            lambda config: config.optimizer.options == {"betas": [0.8, 0.9]},
        ),
        (
            "schedule.decay_milestones=[3, 4]",
            lambda config: config.schedule.decay_milestones == (3, 4),
        ),
        ("compute.channels_last=true", lambda config: config.compute.channels_last is True),
        (" clip_grad = 3 ", lambda config: config.clip_grad == 3.0),
        ("loss=ce:ce=2", lambda config: config.loss == "ce:ce=2"),
        (
            "student=timm:test_resnet,drop=0.1",
            lambda config: config.student == "timm:test_resnet,drop=0.1",
        ),
    ],
)
def test_what_set_reaches(file: str, setting: str, found: Any) -> None:
    assert found(load(file, setting))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["epochs"], "--set 'epochs' is not key=value; write for example --set optimizer.lr=0.1"),
        (["epoch=3"], "unknown train-student key 'epoch'; did you mean 'epochs'"),
        (["optimizer.lrr=3"], "unknown train-student optimizer key 'lrr'; did you mean 'lr'"),
        (["optimiser.lr=3"], "did you mean 'optimizer'"),
        (["epochs=many"], "train-student epochs is 'many'; it must be a whole number"),
        (["epochs.x=3"], r"'epochs\.x': 'epochs' is 5 in .*, which has no keys; make it a table"),
        (["compute.precision=float8"], "did you mean 'float"),
        (["compute.workers=-1"], "compute.workers is -1; it must be from 0 to 1024"),
        (["batch_size=0"], "batch_size is 0; it must be at least 1"),
    ],
)
def test_what_set_refuses(file: str, settings: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(file, *settings)


def test_what_must_be_given_is_called_as_the_command_line_calls_it(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[train-student]\n[dump-teacher]\nrecipe = 'r'\n")
    with pytest.raises(UsageError, match=r"^train-student needs RUN and --student; see kdcache"):
        load(str(path))
    with pytest.raises(UsageError, match=r"^dump-teacher needs CACHE, --data and --teacher; see "):
        load_config(DumpConfig, "dump-teacher", file=str(path), flags={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("run = ", "is not TOML"),
        ("", r"has no table \[train-student\]"),
        ("[dump-teacher]\n", r"has no table \[train-student\]"),
        ("[train-studnet]\n", "did you mean 'train-student'"),
        ("train-student = 3\n", "train-student must be a table"),
        ("[train-student]\nrun = 'r'\n", "train-student needs --student; see kdcache train-st"),
    ],
)
def test_what_a_file_is_refused_for(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "run.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load(str(path))


@pytest.mark.parametrize("setting", ["optimizer.lr=0.1", " optimizer.lr = 0.1"])
def test_a_key_that_is_given_twice_is_refused(setting: str) -> None:
    given = {"run": "run", "student": "timm:resnet18", "optimizer.lr": -1.0}
    with pytest.raises(UsageError, match=r"optimizer\.lr is given twice: -1\.0, and by --set"):
        load_config(TrainConfig, "train-student", file=None, flags=given, settings=[setting])


def test_a_value_where_a_table_belongs_is_told(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[train-student]\noptimizer = 5\n")
    message = rf"'optimizer\.lr': 'optimizer' is 5 in {file}, which has no keys; make it a table"
    with pytest.raises(UsageError, match=message):
        load_config(
            TrainConfig, "train-student", file=str(file), flags={}, settings=["optimizer.lr=0.1"]
        )


def test_what_older_versions_took_is_read_back_and_not_taken_again(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(
        '[train-student]\nrun = "r"\nstudent = "s"\ndata = "d"\nrecipe = "r"\nloss = "ce"\nslab_dir = "~/slabs"\n'
    )
    read = load_config(TrainConfig, "train-student", file=str(file), flags={}, is_ours=True)
    assert read.slab_dir == "~/slabs"
    with pytest.raises(UsageError, match=r"slab_dir is '~/slabs'; ~ stays as it is here"):
        load_config(TrainConfig, "train-student", file=str(file), flags={})
