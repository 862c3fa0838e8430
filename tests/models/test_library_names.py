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
    for name in names:
        try:
            CHECKS[what](name)
        except UsageError as error:
            refused[name] = str(error)
imported = [name for name in ("torch", "torchvision", "timm") if name in sys.modules]
print(json.dumps([refused, imported]))
"""


def refused_names(names: dict[str, list[str]]) -> dict[str, str]:
    """Return the messages on those names that are refused in a process without the libraries."""
    done = subprocess.run(
        [sys.executable, "-c", JUDGE],
        input=json.dumps(names),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused: dict[str, str]
    refused, imported = json.loads(done.stdout)
    assert imported == []
    return refused


def torchvision_models() -> list[str]:
    names: list[str] = []
    for module in (models, models.segmentation, models.detection):
        names += models.list_models(module=module)
    return names


def test_no_name_that_a_library_registers_is_refused() -> None:
    registry: Any = _registry
    names = {
        "timm": [*registry._model_entrypoints],  # those that are deprecated, too
        "torchvision": torchvision_models(),
        "data sets": list(datasets.__all__),
        "optimizers": [*timm.optim.list_optimizers(), "AdamW"],
    }
    assert all(len(group) > 50 for group in names.values())
    assert refused_names(names) == {}


def test_a_mistake_is_told_as_the_library_would() -> None:
    refused = refused_names({"timm": ["resnet5O"], "optimizers": ["adamww"]})
    with pytest.raises(UsageError) as error:
        FAMILIES["timm"].check(parse_spec("timm:resnet5O"))
    assert refused["resnet5O"] == str(error.value)
    known = len(timm.optim.list_optimizers())
    assert f"did you mean 'adamw'? ({known} are known)" in refused["adamww"]


def test_what_only_timm_can_judge_passes() -> None:
    names = ["resnet18.no_such_tag", "hf-hub:me/net", "hf_hub:me/net", "local-dir:/nowhere"]
    assert refused_names({"timm": names}) == {}


def test_a_detector_of_key_points_is_not_suggested() -> None:
    refused = refused_names({"torchvision": ["keypointrcnn_resnet50"]})
    assert "keypointrcnn_resnet50_fpn" not in refused["keypointrcnn_resnet50"]


def test_timm_itself_answers_once_it_is_imported() -> None:
    """It may know models that a user has registered with it."""
    check_timm(parse_spec("timm:resnet5O"))
