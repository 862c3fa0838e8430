"""The documents, as tests read them: pages, their blocks, the commands and files in these."""

import re
import shlex
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


def name_of(page: Path) -> str:
    """Return a page's path below the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Return the texts of a page's blocks in a language."""
    return re.findall(
        rf"^```{language}(?: [^\n]*)?\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE
    )


def files(page: Path) -> dict[str, str]:
    """Return the files that a page shows, by their names: blocks with a title."""
    shown = re.findall(
        r'^```\w+ title="(.*?)"\n(.*?)^```', page.read_text(), re.DOTALL | re.MULTILINE
    )
    return dict(shown)


def commands(page: Path) -> list[list[str]]:
    """Return the words of every kdcache command in the page's shell blocks."""
    lines: list[str] = []
    for block in blocks(page, "bash"):
        lines += block.replace("\\\n", " ").splitlines()
    parts: list[str] = []
    for line in lines:
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
