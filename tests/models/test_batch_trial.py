"""How many views a model takes at once: tried on this CPU, with models of little memory."""

import numpy as np
import pytest
from runs import DIGITS, IN_PROCESS

from kdcache.errors import KdcacheError
from kdcache.models.batch_trial import settled_batch_size
from kdcache.models.model import open_model
from kdcache.models.vision_model import VisionModel
from kdcache.runtime.batch_size import BatchSize, usual_batch_size
from kdcache.runtime.device import Compute
from kdcache.sources import Source, open_source
from kdcache.views import Recipe, ViewDataset, load_recipe


def tried(model: str, size: BatchSize | None = "auto", data: str = DIGITS) -> int:
    recipe = load_recipe("digits")
    opened = open_model(f"{model},mean=0.5,std=0.25", classes=10, recipe=recipe)
    return settled(opened, open_source(data), recipe, size)


def settled(model: VisionModel, source: Source, recipe: Recipe, size: BatchSize | None) -> int:
    rows = np.arange(len(source))
    sizes = [model.preprocessing.size]
    dataset = ViewDataset(source, recipe, rows, sizes=sizes, skip_unreadable=True)
    return settled_batch_size([model], dataset, rows, Compute(IN_PROCESS), size)


def test_a_size_is_tried_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    size = tried("tiny_models:conv")
    assert size in (1, 2, 4, 8, 16, 32, 64)  # there are 64 digits
    assert f"note: batch_size auto is {size} here: " in capsys.readouterr().err


def test_no_more_views_are_taken_than_fit() -> None:
    assert tried("broken_models:few_at_once,most=3") <= 2


def test_a_number_is_taken_without_a_trial(capsys: pytest.CaptureFixture[str]) -> None:
    assert tried("broken_models:few_at_once,most=1", 5) == 5
    assert capsys.readouterr().err == ""


def test_without_a_number_it_is_what_is_usual_for_the_size_of_the_views() -> None:
    assert tried("tiny_models:conv", None) == 256
    assert tried("tiny_models:conv,input_size=128", None) == usual_batch_size("cpu", [128]) == 128


def test_a_model_that_never_fits_is_told() -> None:
    model = open_model(
        "broken_models:few_at_once,mean=0.5,std=0.25", classes=10, recipe=load_recipe("digits")
    )
    model.module.most = 0
    with pytest.raises(KdcacheError, match="not even one view fits into the memory of cpu"):
        settled(model, open_source(DIGITS), load_recipe("digits"), "auto")
