"""What the documents name is there: commands and their options, specs, files, links, packages."""

import re
from pathlib import Path

import pytest
from pages import DOCS, GENERATED, PAGES, ROOT, anchors, commands, name_of

from kdcache.codecs.registry import CODECS
from kdcache.losses.registry import LOSSES
from kdcache.models.registry import FAMILIES
from kdcache.sources.registry import OPENERS
from kdcache_cli.commands import main

REFERENCE = DOCS / "reference"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_documents_parse(page: Path) -> None:
    for name, *words in commands(page):
        main.commands[name].make_context(name, words)


def test_every_command_is_shown_where_it_is_explained() -> None:
    shown = {words[0] for page in PAGES if page not in GENERATED for words in commands(page)}
    assert set(main.commands) == shown


def test_all_that_a_spec_can_name_is_documented() -> None:
    names = {
        "losses": ("train-student", "--loss", LOSSES),
        "codecs": ("dump-teacher", "--codec", CODECS),
        "data": (None, "--data", OPENERS),
        "models": (None, "--teacher", FAMILIES),
    }
    for title, (command, option, known) in names.items():
        page = REFERENCE / f"{title}.md"
        text = page.read_text()
        lacking = [name for name in known if not re.search(rf"[`|, ]{name}[:`]", text)]
        assert not lacking, f"{option}: {name_of(page)} names no {lacking}"
        if command is not None:
            (told,) = (each.help for each in main.commands[command].params if option in each.opts)
            assert all(name in told for name in known), f"{option}: {told}"


PATHS = re.compile(r"`((?:kdcache|cli|tests|docs|benchmarks|examples)/[\w./*-]+)`")
PAGES_IN_CODE = re.compile(r"docs/[\w/.-]+\.(?:md|png|svg)")


def test_files_that_are_named_exist() -> None:
    code = [*ROOT.glob("kdcache/**/*.py"), *ROOT.glob("cli/**/*.py")]
    settings = [
        *ROOT.glob("kdcache/**/*.toml"),
        *ROOT.glob("examples/*.*"),
        *ROOT.glob("tests/*.py"),
    ]
    names = {path.name for path in ROOT.rglob("*.py")}
    for page in [*PAGES, *code]:
        text = page.read_text()
        for path in PATHS.findall(text):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page.name}: {path}"
        for name in re.findall(r"see (\w+\.py)", text):
            assert name in names, f"{page.name}: {name}"
    for file in [*code, *settings]:
        for path in PAGES_IN_CODE.findall(file.read_text()):
            assert (ROOT / path).exists(), f"{file.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(path), f"{page.name}: {target}"


def test_every_page_of_the_site_is_reached_from_another() -> None:
    linked = set()
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            linked.add((page.parent / target).resolve())
    site = {page for page in PAGES if page.is_relative_to(DOCS)}
    assert {name_of(page) for page in site - linked} <= {"docs/index.md"}


def test_the_fonts_to_install_are_names_of_packages() -> None:
    listed = re.search(
        r"FONT_PACKAGES = \((.*?)\n\)", (ROOT / "examples" / "characters.py").read_text(), re.DOTALL
    )
    assert listed is not None
    packages = "".join(re.findall(r'"(.*)"', listed[1])).split()
    assert len(packages) == len(set(packages)) > 80
    assert [name for name in packages if not re.fullmatch(r"fonts-\S*[^-]", name)] == []
