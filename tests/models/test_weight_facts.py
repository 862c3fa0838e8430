"""What weights say of their model: the task, the classes, and what it wants of an image."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from kdcache.models.preprocessing import Preprocessing
from kdcache.models.weight_facts import WeightFacts, facts_of, read_facts, weight_facts
from kdcache.models.weight_record import weight_record

FACTS = weight_facts(
    Preprocessing((32, 64), (0.5, 0.4, 0.3), (0.1, 0.2, 0.25)),
    task="classification",
    num_classes=2,
    label_names=("Löwe, männlich", "hare"),
)


def written(path: Path, metadata: dict[str, str]) -> Path:
    save_file({"weight": np.zeros(1, np.float32)}, path, metadata)
    return path


def test_weights_say_what_was_written_into_them(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", weight_record("timm:x", FACTS))
    assert read_facts(path) == FACTS
    assert FACTS.input_size == (3, 32, 64) and FACTS.size == (32, 64) and FACTS.mode == "RGB"


def test_a_grey_model_without_names_says_so() -> None:
    facts = weight_facts(
        Preprocessing(8, (0.5,), (0.25,)), task="detection", num_classes=3, label_names=None
    )
    assert facts_of(facts.to_metadata()) == facts
    assert facts.mode == "L" and facts.size == 8


def test_weights_without_such_metadata_say_nothing(tmp_path: Path) -> None:
    assert read_facts(written(tmp_path / "a.safetensors", {"kdcache": "0"})) is None
    assert read_facts(written(tmp_path / "b.safetensors", weight_record("timm:x"))) is None


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("task", "poetry"),
        ("num_classes", "3"),
        ("num_classes", "-2"),
        ("num_classes", "many"),
        ("label_names", '["a"]'),
        ("label_names", '["a", 3]'),
        ("label_names", '{"a": 1, "b": 2}'),
        ("label_names", "[" * 100_000),
        ("label_names", json.dumps(["a", "b" * 2000])),
        ("input_size", "[32, 64]"),
        ("input_size", "[2, 32, 64]"),
        ("input_size", "[3, 0, 64]"),
        ("mean", "[0.5]"),
        ("mean", "0.5"),
        ("std", '["a", 1, 1]'),
        ("std", "[0.1, 0, 0.1]"),
        ("std", "[0.1, -0.1, 0.1]"),
        ("std", "[0.1, Infinity, 0.1]"),
        ("std", '["0.1", "0.1", "0.1"]'),
        ("mean", "[NaN, 0.5, 0.5]"),
        ("mean", "[true, 0.5, 0.5]"),
        ("mean", "[1" + "0" * 400 + ", 0.5, 0.5]"),
        ("input_size", "[3, 8.5, 64]"),
        ("input_size", "[3, true, 64]"),
        ("num_classes", "2.0"),
        ("num_classes", "true"),
    ],
)
def test_metadata_that_no_run_wrote_says_nothing(key: str, text: str) -> None:
    assert facts_of({**FACTS.to_metadata(), key: text}) is None


def test_the_facts_are_those_of_timms_configurations() -> None:
    from timm.models import PretrainedCfg

    names = set(WeightFacts.__dataclass_fields__) - {"task"}
    assert names <= set(PretrainedCfg.__dataclass_fields__)
