"""The pages that come from the code are up to date, and say something of everything."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from pages import DOCS, GENERATED, name_of
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

import kdcache
from kdcache.models.library_options import numeric_parameters

SCRIPT = DOCS / "reference" / "generate.py"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", sorted(GENERATED), ids=name_of)
def test_a_page_is_what_the_code_says(page: Path, generate: ModuleType) -> None:
    text = generate.pages()[page]
    assert page.read_text() == text, "run python docs/reference/generate.py, and commit the pages"


def test_the_pages_are_all_that_is_generated(generate: ModuleType) -> None:
    assert set(generate.pages()) == GENERATED


def test_every_public_name_is_on_the_page_of_the_api_once(generate: ModuleType) -> None:
    names: list[str] = []
    for rooms in generate.ROOMS.values():
        for room in rooms:
            names += generate.public_names(room)
    assert sorted(names) == sorted(kdcache.__all__)


def test_every_setting_has_a_text_under_it(generate: ModuleType) -> None:
    for command, config in generate.CONFIGURATIONS.items():
        for table, cls in generate._tables(command, config):
            names = {field.name for field, _ in generate._fields(cls)}
            tables = {"ray", "compute", "optimizer", "schedule", "ema"}
            assert names - tables == set(generate.field_docs(cls)) - tables, table


def test_the_page_on_detection_has_all_options_of_detectors() -> None:
    page = (DOCS / "reference" / "detection.md").read_text()
    for cls in (FCOS, FasterRCNN, RetinaNet, SSD):
        for option in numeric_parameters(cls):
            names = {option, option.removeprefix("rpn_").removeprefix("box_")}
            assert any(f"`{name}`" in page for name in names), option
