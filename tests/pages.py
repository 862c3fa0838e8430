"""The documents, as tests read them: pages, their blocks, the commands and files in these."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
GENERATED = {DOCS / "reference" / f"{name}.md" for name in ("commands", "configuration", "api")}
"""Pages that come from the code."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code."""

    language: str
    file: str | None
    """The name of the file that it is, if it has a title."""
    text: str


def name_of(page: Path) -> str:
    """Return a page's path below the root."""
    return page.relative_to(ROOT).as_posix()


def all_blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page, in order."""
    matches = re.findall(
        r"^```(\w*)([^\n]*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    shown: list[Block] = []
    for language, words, text in matches:
        title = re.search(r'title="(.*?)"', words)
        shown.append(Block(language=language, file=title[1] if title else None, text=text))
    return shown


def blocks(page: Path, language: str) -> list[str]:
    """Return the texts of a page's blocks in a language."""
    return [block.text for block in all_blocks(page) if block.language == language]


def files(page: Path) -> dict[str, str]:
    """Return the files that a page shows, by their names: blocks with a title."""
    return {block.file: block.text for block in all_blocks(page) if block.file is not None}


def commands(page: Path) -> list[list[str]]:
    """Return the words of every kdcache command in the page's shell blocks."""
    words: list[list[str]] = []
    for block in blocks(page, "bash"):
        words += commands_of(block)
    return words


def commands_of(script: str) -> list[list[str]]:
    """Return the words of every kdcache command of a script."""
    parts: list[str] = []
    for line in script.replace("\\\n", " ").splitlines():
        parts += [part.strip() for part in re.split(r"&&|\|\|", line)]
    return [shlex.split(part, comments=True)[1:] for part in parts if part.startswith("kdcache ")]


def prose(page: Path) -> list[str]:
    """Return a page's lines with those of its blocks of code empty."""
    lines: list[str] = []
    inside = False
    for line in page.read_text().splitlines():
        is_fence = line.startswith("```")
        lines.append("" if inside or is_fence else line)
        inside = inside != is_fence
    return lines


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = [line.lstrip("#").strip() for line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
