"""What maintainers rely on holds: workflows, templates, versions, the commands of CONTRIBUTING."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import ROOT, blocks

import kdcache

FILES = sorted((ROOT / ".github").rglob("*.yml"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_for_github_are_yaml_of_one_table(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text()), dict)


def test_the_site_is_built_with_the_tools_of_the_extra() -> None:
    text = (ROOT / ".github" / "workflows" / "site.yml").read_text()
    line = re.search(r"pip install (.*)", text)
    tools = {
        re.split(">=", tool)[0] for tool in PROJECT["project"]["optional-dependencies"]["docs"]
    }
    assert line is not None and set(line[1].replace("'", "").split()) == tools


def test_versions_are_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == kdcache.__version__


def test_the_quick_subset_of_the_tests_exists() -> None:
    install, quick, whole = blocks(ROOT / "CONTRIBUTING.md", "bash")[0].splitlines()
    assert install.startswith("pip install") and whole == "pytest"
    paths = re.findall(r"tests/\S+", quick)
    assert paths and all((ROOT / path).exists() for path in paths)
