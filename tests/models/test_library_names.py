"""What libraries register, against what is read from their sources: no name of theirs is refused."""

import json
import subprocess
import sys
from typing import Any

import pytest
import timm
import timm.optim
from timm.models import _registry
from torchvision import datasets, models

from kdcache.config.spec import parse_spec
from kdcache.errors import UsageError
from kdcache.models.library_names import check_timm
from kdcache.models.registry import FAMILIES

JUDGE = """
import json, sys
from kdcache.config.spec import Spec
from kdcache.errors import UsageError
from kdcache.models.library_names import check_timm, check_torchvision
from kdcache.sources.torchvision import check_torchvision as check_data_set
from kdcache.train.optim import OptimizerConfig, check_optimizer_name

CHECKS = {
    "timm": lambda name: check_timm(Spec("timm", name)),
    "torchvision": lambda name: check_torchvision(Spec("torchvision", name)),
    "data sets": lambda name: check_data_set(Spec("torchvision", name)),
    "optimizers": lambda name: check_optimizer_name(OptimizerConfig(name=name)),
}
refused = {}
for what, names in json.load(sys.stdin).items():
    refused[what] = {}
    for name in names:
        try:
            CHECKS[what](name)
        except UsageError as error:
            refused[what][name] = str(error)
imported = [name for name in ("torch", "torchvision", "timm") if name in sys.modules]
print(json.dumps([refused, imported]))
"""
JUDGED_BY_TIMM = ["resnet18.no_such_tag", "hf-hub:me/net", "hf_hub:me/net", "local-dir:/nowhere"]
MISTAKES = {
    "timm": ["resnet5O"],
    "torchvision": ["keypointrcnn_resnet50"],
    "data sets": [],
    "optimizers": ["adamww"],
}


def registered() -> dict[str, list[str]]:
    """Return the names that the libraries have."""
    registry: Any = _registry
    return {
        "timm": [*registry._model_entrypoints],  # those that are deprecated, too
        "torchvision": torchvision_models(),
        "data sets": list(datasets.__all__),
        "optimizers": [*timm.optim.list_optimizers(), "AdamW"],
    }


def torchvision_models() -> list[str]:
    names: list[str] = []
    for module in (models, models.segmentation, models.detection):
        names += models.list_models(module=module)
    return names


@pytest.fixture(scope="module")
def refused() -> dict[str, dict[str, str]]:
    """Return the messages on those names that are refused in a process without the libraries."""
    names = {what: [*group, *MISTAKES[what]] for what, group in registered().items()}
    names["timm"] += JUDGED_BY_TIMM
    done = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, imported = json.loads(done.stdout)
    assert imported == []
    return dict(told)


def test_no_name_that_a_library_registers_is_refused(refused: dict[str, dict[str, str]]) -> None:
    for what, names in registered().items():
        assert len(names) > 50 and not refused[what].keys() & names


def test_a_mistake_is_told_as_the_library_would(refused: dict[str, dict[str, str]]) -> None:
    with pytest.raises(UsageError) as error:
        FAMILIES["timm"].check(parse_spec("timm:resnet5O"))
    assert refused["timm"]["resnet5O"] == str(error.value)
    known = len(timm.optim.list_optimizers())
    assert f"did you mean 'adamw'? ({known} are known)" in refused["optimizers"]["adamww"]


def test_what_only_timm_can_judge_passes(refused: dict[str, dict[str, str]]) -> None:
    assert not refused["timm"].keys() & JUDGED_BY_TIMM


def test_a_detector_of_key_points_is_not_suggested(refused: dict[str, dict[str, str]]) -> None:
    told = refused["torchvision"]["keypointrcnn_resnet50"]
    assert "keypointrcnn_resnet50_fpn" not in told


def test_timm_itself_answers_once_it_is_imported() -> None:
    """It may know models that a user has registered with it."""
    check_timm(parse_spec("timm:resnet5O"))
