"""The weights of a run, as others find them: with class names and preprocessing, and in timm."""

from pathlib import Path

import timm
import torch
from runs import DIGITS, train

from kdcache.models.weight_facts import read_facts

NAMED = "tiny_models:named_digits"
FILES = ("student.safetensors", "best.safetensors", "ema.safetensors")
TIMM = "timm:test_resnet,mean=0.4,std=0.3,input_size=32"


def test_weights_of_a_run_carry_names_and_preprocessing_and_open_in_timm(tmp_path: Path) -> None:
    from kdcache.train.config import EmaConfig

    settings = {"data": NAMED, "recipe": "digits", "loss": "ce", "student": TIMM}
    train(tmp_path, **settings, eval_data=NAMED, ema=EmaConfig(decay=0.9), epochs=1)
    for name in FILES:
        path = tmp_path / name
        facts = read_facts(path)
        assert facts is not None
        assert facts.label_names == tuple(f"digit {number}" for number in range(10))
        assert facts.input_size == (1, 32, 32)
        assert (facts.mean, facts.std, facts.num_classes) == ((0.4,), (0.3,), 10)
        assert facts.task == "classification"
        model = timm.create_model(
            "test_resnet", in_chans=1, num_classes=facts.num_classes, checkpoint_path=str(path)
        )
        images = torch.rand(2, *facts.input_size)
        assert model.eval()(images).shape == (2, 10)
    fresh = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    assert not torch.equal(next(model.parameters()), next(fresh.parameters()))


def test_names_come_from_the_evaluation_data_where_the_training_data_has_none(
    tmp_path: Path,
) -> None:
    train(tmp_path, data=DIGITS, recipe="digits", loss="ce", eval_data=NAMED, epochs=1)
    facts = read_facts(tmp_path / "student.safetensors")
    assert facts is not None and facts.label_names is not None
    assert facts.label_names[3] == "digit 3" and facts.size == 8 and facts.mode == "L"


def test_weights_without_names_say_how_many_classes_there_are(tmp_path: Path) -> None:
    train(tmp_path, data=DIGITS, recipe="digits", loss="ce", epochs=1)
    facts = read_facts(tmp_path / "student.safetensors")
    assert facts is not None
    assert facts.label_names is None and facts.num_classes == 10
