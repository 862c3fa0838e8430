"""The command `recode` as a user meets it."""

import json
from pathlib import Path

import pytest
from caches import fill
from click.testing import CliRunner, Result

from kdcache_cli.commands import main


def kdcache(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fill(tmp_path / "old", 0, 1, 2, codec="full:dtype=float32", rows=100, skip_unreadable=True)
    monkeypatch.chdir(tmp_path)
    return Path("old")


def test_it_prints_what_it_wrote_and_what_that_costs(cache: Path) -> None:
    done = kdcache("recode", cache, "new", "--codec", "topk:k=2", "--seeds", "0:2")
    assert done.exit_code == 0, done.output
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert lines["codec"] == "topk:k=2 from full:dtype=float32"
    assert lines["seeds"] == "0 to 1, 100 views each"
    assert " per view; before: " in lines["bytes"]
    assert lines["gradient"].startswith("of DIST turned by ") and " % at tau 4" in lines["gradient"]
    assert "absent" not in lines
    info = kdcache("info", "new").stdout.splitlines()
    assert "recoded  from full:dtype=float32" in info
    assert not any(
        line.startswith("recoded") for line in kdcache("info", cache).stdout.splitlines()
    )


def test_what_was_not_measured_is_told(cache: Path) -> None:
    def gradient(*words: object) -> str:
        done = kdcache("recode", *words)
        assert done.exit_code == 0, done.output
        return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())["gradient"]

    gradient(cache, "first", "--codec", "topk:k=3")
    told = gradient("first", "second", "--codec", "topk:k=2")
    assert told.startswith("of DIST turned further than by topk:k=3 before it (") and told.endswith(
        "how far was not measured"
    )
    assert any(
        line.startswith("recoded  from topk:k=3 (turns DIST's gradient by ")
        for line in kdcache("info", "second").stdout.splitlines()
    )
    fill(Path("one"), 0, codec="full:dtype=float32", rows=100)
    assert gradient("one", "one-k2", "--codec", "topk:k=2").startswith(
        "not measured: that takes exact logits of two seeds"
    )


def test_json_says_the_same(cache: Path) -> None:
    for written in (True, False):
        done = kdcache("recode", cache, "new", "--codec", "lowrank:step=1", "--json")
        result = json.loads(done.stdout)
        assert (result["units_written"] > 0) is written
        assert result["seeds"] == [0, 1, 2] and set(result["gradient_error"]) == {"1", "4"}
        assert result["before"]["bytes"] > result["after"]["bytes"] > 0
        assert result["before"]["codec"] == "full:dtype=float32"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["old", "old", "--codec", "topk:k=2"],
            2,
            "old is the cache itself, or inside it; give the new one a folder of its own",
        ),
        (
            ["old", "new", "--codec", "full:dtype=float32"],
            2,
            "it has that codec already: copy the folder",
        ),
        (["old", "new", "--codec", "topk:k=9"], 2, "k must be from 1 to 5"),
        (["old", "new", "--codec", "topk:k=2", "--seeds", "1:5"], 1, "does not hold seed 3"),
        (
            ["old", "new", "--codec", "topk:k=2", "--seeds", "x"],
            2,
            "seeds 'x' are not of the form A:B",
        ),
        (["absent", "new", "--codec", "topk:k=2"], 1, "absent is not a cache"),
    ],
)
@pytest.mark.usefixtures("cache")
def test_mistakes_are_one_line(words: list[str], code: int, message: str) -> None:
    done = kdcache("recode", *words)
    assert done.exit_code == code and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("kdcache: error: ") and message in line
    assert not Path("new").exists()


def test_a_codec_must_be_given(cache: Path) -> None:
    done = kdcache("recode", cache, "new")
    assert (
        done.exit_code == 2
        and "kdcache recode needs --codec; see kdcache recode --help" in done.stderr
    )
