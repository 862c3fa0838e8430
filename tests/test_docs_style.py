"""The documents keep the house rules: short sentences, a line each, code first, no stray figures."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from pages import DOCS, GENERATED, PAGES, README, ROOT, name_of, prose
from test_result_pages import faults_of_prose, num_words
from test_rooms import rooms

MOST_LINES_BEFORE_CODE = 5
MOST_WORDS_OF_README = 500

TROUBLE = DOCS / "troubleshooting.md"
SITE = [page for page in PAGES if page.is_relative_to(DOCS) and page not in GENERATED]
INSTRUCTIONS = [page for page in SITE if page.parent.name in ("tutorials", "how-to")]
MEASURED = re.compile(r"\b20\d\d-\d\d-\d\d\b|\bn = \d|\bAMD EPYC\b|\bNVIDIA\b")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in GENERATED], ids=name_of)
def test_sentences_are_short_and_have_a_line_each(page: Path) -> None:
    assert faults_of_prose(page.read_text()) == []


def sections(page: Path) -> list[tuple[str, list[str]]]:
    """Return each heading of a page, with the lines under it that are not empty."""
    parts: list[tuple[str, list[str]]] = []
    for line, shown in zip(page.read_text().splitlines(), prose(page), strict=True):
        if shown.startswith("#"):
            parts.append((shown, []))
        elif line.strip():
            parts[-1][1].append(line)
    return parts


@pytest.mark.parametrize("page", INSTRUCTIONS, ids=name_of)
def test_a_section_of_instructions_begins_with_code(page: Path) -> None:
    for heading, lines in sections(page):
        first = lines[:MOST_LINES_BEFORE_CODE]
        assert any("`" in line for line in first), heading


@pytest.mark.parametrize(
    "page", [page for page in INSTRUCTIONS if page.name != "index.md"], ids=name_of
)
def test_a_page_of_instructions_shows_a_block_in_its_first_section(page: Path) -> None:
    lines = page.read_text().split("\n## ", 2)
    assert any("```" in part for part in lines[:2]), name_of(page)


@pytest.mark.parametrize("page", INSTRUCTIONS, ids=name_of)
def test_instructions_hold_no_measurements(page: Path) -> None:
    assert [line for line in prose(page) if MEASURED.search(line)] == []


@pytest.mark.parametrize(
    "page", [page for page in INSTRUCTIONS if page.parent.name == "how-to"], ids=name_of
)
def test_a_how_to_page_is_a_question(page: Path) -> None:
    title = page.read_text().splitlines()[0]
    assert title.endswith("?") or page.name == "index.md"


def test_the_readme_is_short() -> None:
    lines = [line for line in prose(README) if not line.startswith("|")]
    assert sum(num_words(line.lstrip("#")) for line in lines) <= MOST_WORDS_OF_README


@pytest.mark.parametrize("folder", ["tutorials", "how-to"])
def test_an_index_leads_to_every_page_of_its_folder(folder: str) -> None:
    pages = {page.name for page in (DOCS / folder).glob("*.md")} - {"index.md"}
    targets = re.findall(r"\]\((\w[\w-]*\.md)\)", (DOCS / folder / "index.md").read_text())
    assert set(targets) == pages and len(targets) == len(pages)


@cache
def texts_of_the_code() -> str:
    """Return all texts in the code, a line each; `\0` stands for what is put in."""
    texts: list[str] = []
    for file in [*ROOT.glob("kdcache/**/*.py"), *ROOT.glob("cli/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(_piece(part) for part in node.values))
    return "\n".join(" ".join(text.split()) for text in texts)


def _piece(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else "\0"


ERRORS = re.findall(r"^### `(.*)`$", TROUBLE.read_text(), re.MULTILINE)


@pytest.mark.parametrize("text", ERRORS)
def test_a_message_that_is_explained_is_one_of_ours(text: str) -> None:
    parts = [re.escape(part) for part in text.split("...")]
    assert re.search("[^\n]*".join(parts), texts_of_the_code()), text


def test_messages_are_explained() -> None:
    assert len(ERRORS) > 25


def test_the_drawing_of_the_house_has_every_room_in_order() -> None:
    drawn = re.findall(r">(\w+)</text>", (DOCS / "drawings" / "house.svg").read_text())
    assert [name for name in drawn if name in {*rooms(), "cli"}] == [*rooms(), "cli"]
