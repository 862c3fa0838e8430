"""The pages of results begin with their answer, and are written to be read once."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "results"
PAGES = sorted(FOLDER.glob("*.md"))

MOST_SENTENCES_OF_ANSWER = 3
MOST_WORDS_OF_SENTENCE = 25
MOST_WORDS_OF_PARAGRAPH = 60

FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
ITEM = re.compile(r"^(?:[-*]|\d+\.) ")
BETWEEN_BLOCKS = re.compile(r"\n{2,}|\n(?=(?:[-*]|\d+\.) )")
END_OF_SENTENCE = re.compile(r"[.!?:;][)*]*$")
BREAK_IN_A_LINE = re.compile(r"[.!?][)*\"]* +\S")
LINK = re.compile(r"!?\[([^]]*)\]\([^)]*\)")
CODE = re.compile(r"`[^`]*`")
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")


@dataclass(frozen=True, kw_only=True)
class Block:
    """Lines of a page that belong together."""

    kind: str
    """`heading`, `table`, `picture`, `code`, `item` or `paragraph`."""

    lines: tuple[str, ...]


def kind_of(text: str) -> str:
    """Return what kind of block a text is."""
    for start, kind in (("#", "heading"), ("|", "table"), ("![", "picture"), ("```", "code")):
        if text.startswith(start):
            return kind
    return "item" if ITEM.match(text) else "paragraph"


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page in order; an item of a list is one, with the lines under it."""
    pieces = BETWEEN_BLOCKS.split(FENCE.sub("```", text).strip())
    return [Block(kind=kind_of(piece), lines=tuple(piece.splitlines())) for piece in pieces]


def num_words(line: str) -> int:
    """Return how many words a line has; a piece of code is one, a sign by itself is none."""
    prose = CODE.sub("code", LINK.sub(r"\1", line))
    return sum(any(letter.isalnum() for letter in word) for word in prose.split())


def faults_of_prose(text: str) -> list[str]:
    """Return what breaks the rules of sentences and paragraphs, each with its line."""
    faults = []
    for block in blocks_of(text):
        if block.kind not in ("item", "paragraph"):
            continue
        for line in block.lines:
            if num_words(line) > MOST_WORDS_OF_SENTENCE:
                faults.append(f"{num_words(line)} words: {line}")
            if BREAK_IN_A_LINE.search(ITEM.sub("", CODE.sub("code", line))):
                faults.append(f"two sentences in a line: {line}")
            if not END_OF_SENTENCE.search(line):
                faults.append(f"a sentence goes on in the next line: {line}")
        words = sum(num_words(line) for line in block.lines)
        if words > MOST_WORDS_OF_PARAGRAPH:
            faults.append(f"a paragraph of {words} words: {block.lines[0]}")
    return faults


def faults_of_answer(text: str) -> list[str]:
    """Return why a page does not begin with its answer: a title, then a short paragraph."""
    title, answer, *_ = blocks_of(text)
    faults = []
    if title.kind != "heading" or not title.lines[0].startswith("# "):
        faults.append(f"no title: {title.lines[0]}")
    if answer.kind != "paragraph":
        faults.append(f"{answer.kind} in the place of the answer: {answer.lines[0]}")
    if len(answer.lines) > MOST_SENTENCES_OF_ANSWER:
        faults.append(f"an answer of {len(answer.lines)} sentences: {answer.lines[0]}")
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_its_answer(page: Path) -> None:
    assert faults_of_answer(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sentences_are_short_and_have_a_line_each(page: Path) -> None:
    assert faults_of_prose(page.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_says_on_what_and_when_it_was_measured(page: Path) -> None:
    text = page.read_text()
    assert re.search(r"^## How ", text, re.MULTILINE)
    assert re.search(r"\bAMD EPYC\b|\bNVIDIA\b", text)
    assert DATE.search(text)


def test_the_index_leads_to_every_page_once() -> None:
    targets = re.findall(r"\]\((\w[\w-]*\.md)\)", (FOLDER / "index.md").read_text())
    assert sorted(targets) == [page.name for page in PAGES if page.name != "index.md"]


def test_the_pictures_of_the_folder_are_shown() -> None:
    texts = [page.read_text() for page in FOLDER.parent.rglob("*.md")]
    for picture in (FOLDER.parent / "images").iterdir():
        assert any(f"](../images/{picture.name})" in text for text in texts), picture.name


@pytest.mark.parametrize(
    ("page", "fault"),
    [
        ("# Title\n\n| a |\n|---|\n", "table in the place of the answer"),
        ("# Title\n\n![a](b.png)\n", "picture in the place of the answer"),
        ("# Title\n\n- It is so.\n", "item in the place of the answer"),
        ("**So.**\n\nIt is.\n", "no title"),
        ("# Title\n\n**So.**\nA.\nB.\nC.\n", "an answer of 4 sentences"),
    ],
)
def test_a_page_without_its_answer_first_is_noticed(page: str, fault: str) -> None:
    assert any(told.startswith(fault) for told in faults_of_answer(page))


@pytest.mark.parametrize(
    ("prose", "fault"),
    [
        ("word " * 25 + "word.", "26 words"),
        ("It is so. It stays so.", "two sentences in a line"),
        ("- **It is so.** It stays so.", "two sentences in a line"),
        ("It is so, and\nit stays so.", "a sentence goes on in the next line"),
        ("\n".join(["word " * 20 + "word."] * 3), "a paragraph of 63 words"),
        ("- A list:\n  " + "word " * 25 + "word.", "26 words"),
    ],
)
def test_prose_that_is_hard_to_read_is_noticed(prose: str, fault: str) -> None:
    assert any(told.startswith(fault) for told in faults_of_prose(f"# Title\n\n{prose}\n"))


def test_tables_code_and_signs_are_not_counted() -> None:
    table = "| " + "word " * 40 + "|\n|---|\n"
    code = "```bash\n" + "word " * 40 + "\nand more\n```\n"
    prose = "word " * 23 + "- `a command of six words` ± [link](page.md)."
    assert faults_of_prose(f"# Title\n\n{prose}\n\n{table}\n{code}") == []
