"""The rooms of the house: modules import from their own room and from those that docs/design.md
lists above it."""

import ast
import re
from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    "module", sorted(module for module in MODULES if module not in ("kdcache", "kdcache.__main__"))
)
def test_imports_go_up_the_table(module: str) -> None:
    order = rooms()
    place = order.index(room_of(module))
    for other in imports_of(MODULES[module]):
        assert other != "kdcache", f"{module} imports the package itself"
        assert order.index(room_of(other)) <= place, (
            f"{module} imports {other}, which lies below it"
        )


def test_the_hall_is_small() -> None:
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 8


def test_what_is_public_is_listed() -> None:
    assert {"DistillationLoader", "evaluate", "dist_loss", "Recipe"} <= set(dir(kdcache))
    assert all(hasattr(kdcache, name) for name in dir(kdcache))
