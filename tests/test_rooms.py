"""The rooms of the house: modules import from their own room and from those that docs/design.md
lists above it."""

import ast
import re
from pathlib import Path

import kdcache

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "kdcache"
MODULES = {
    ".".join(("kdcache", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): file
    for file in PACKAGE.rglob("*.py")
}


def rooms() -> list[str]:
    """Return the rooms in the order of the design's table."""
    page = (
        (ROOT / "docs" / "design.md")
        .read_text()
        .partition("## Rooms")[2]
        .partition("## Invariants")[0]
    )
    cells = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    return [
        name.strip("/")
        for cell in cells
        for name in re.findall(r"`([\w/]+)`", cell)
        if "cli" not in name
    ]


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports_of(file: Path) -> set[str]:
    """Return the modules of kdcache that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.startswith("kdcache.")}
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] == "kdcache"
        ):
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def test_the_table_has_every_room_once() -> None:
    own = {room_of(module) for module in MODULES if module not in ("kdcache", "kdcache.__main__")}
    assert sorted(rooms()) == sorted(own)


def test_imports_go_up_the_table() -> None:
    place = {room: number for number, room in enumerate(rooms())}
    wrong: list[str] = []
    for module, file in MODULES.items():
        if module in ("kdcache", "kdcache.__main__"):
            continue
        for other in imports_of(file):
            # the package itself is below all rooms
            if other == "kdcache" or place[room_of(other)] > place[room_of(module)]:
                wrong.append(f"{module} imports {other}, which lies below it")
    assert wrong == []


def test_the_hall_is_small() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 8


def test_what_is_public_is_listed() -> None:
    assert {"DistillationLoader", "evaluate", "dist_loss", "Recipe"} <= set(dir(kdcache))
    assert all(hasattr(kdcache, name) for name in dir(kdcache))
