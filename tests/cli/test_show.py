"""The command `show`, looked at by what its picture holds."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from matplotlib.text import Text
from PIL import Image
from runs import CONV, dump, largest_file

from kdcache_cli.commands import main

DIGITS, SHAPES = (
    "tiny_models:few_digits,length=64",
    "segmentation_files:Shapes,length=4,height=64,width=96",
)


NAMED = "tiny_models:named_digits,length=64"


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caches")
    dump(path / "digits", data=DIGITS, seeds="0:1")
    (path / "r.toml").write_text(
        'size = [64, 96]\n[[transforms]]\nname = "RandomCrop"\nsize = "input"\n'
    )
    dump(
        path / "maps",
        data=SHAPES,
        teacher="tiny_models:segmenter",
        recipe=str(path / "r.toml"),
        seeds="0:1",
    )
    return path


@pytest.mark.parametrize(("name", "data"), [("digits", DIGITS), ("maps", SHAPES)])
def test_a_view_is_drawn(caches: Path, tmp_path: Path, name: str, data: str) -> None:
    file = tmp_path / "view.png"
    done = CliRunner().invoke(
        main, ["show", str(caches / name), "--view", "3:0", "-o", str(file), "--data", data]
    )
    assert done.exit_code == 0, done.output
    assert "00000003, row" in done.stdout and "is sure by" in done.stdout
    colours = Image.open(file).convert("RGB").getcolors(2**20)
    assert colours is not None and len(colours) > 100
    if name == "maps":  # the view's red channel is 40 times the class
        assert {colour[0] for _, colour in colours} >= {0, 40, 80, 120}


def test_a_picture_is_whole_or_the_one_before_it_stays(caches: Path, tmp_path: Path) -> None:
    file = tmp_path / "view.png"
    file.write_bytes(b"the one before it")
    words = ["show", str(caches / "digits"), "--view", "3:0", "-o", str(file), "--data", DIGITS]
    with largest_file(2_000):  # a slab has less
        done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert "view.png: File too large; write elsewhere, or make room" in done.stderr
    assert file.read_bytes() == b"the one before it"
    assert list(tmp_path.iterdir()) == [file]


def texts_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what matplotlib is given to write, from now on."""
    written: list[str] = []
    set_text = Text.set_text

    def noting(self: Text, text: object) -> None:
        written.append(str(text))
        set_text(self, text)

    monkeypatch.setattr(Text, "set_text", noting)
    return written


@pytest.mark.parametrize("name", ["digits", "maps"])
def test_a_teacher_of_other_classes_is_told_by_numbers_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """What matplotlib is given to write is looked at: names of the data stand for the data's
    classes alone."""
    if name == "maps":
        (tmp_path / "r.toml").write_text(
            'size = [64, 96]\n[[transforms]]\nname = "RandomCrop"\nsize = "input"\n'
        )
        settings = {
            "data": SHAPES,
            "teacher": "tiny_models:segmenter,classes=9",
            "recipe": str(tmp_path / "r.toml"),
        }
    else:
        settings = {"data": NAMED, "teacher": f"{CONV},classes=14"}
    dump(tmp_path / "cache", teacher_classes=9 if name == "maps" else 14, seeds="0:1", **settings)
    written = texts_that_are_drawn(monkeypatch)
    words = ["--view", "3:0", "-o", str(tmp_path / "view.png"), "--data", settings["data"]]
    done = CliRunner().invoke(main, ["show", str(tmp_path / "cache"), *words])
    assert done.exit_code == 0, done.output
    theirs = {text for text in written if text.startswith("teacher's ")}
    assert theirs and theirs <= {f"teacher's {number}" for number in range(14)}
    if name == "maps":
        assert "teacher: its own classes" in written and not any(
            "right" in text for text in written
        )
    else:
        assert len(theirs) == 5 and any(text.startswith("label: digit ") for text in written)


def test_classes_of_a_mapped_teacher_have_their_names_and_those_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump(tmp_path / "cache", data=NAMED, teacher=f"{CONV},classes=14", teacher_classes=14,
         seeds="0:1")  # fmt: skip
    names = tmp_path / "names.txt"
    names.write_text("".join(f"shape {number}\n" for number in range(13)) + "digit 9\n")
    lines = [f"digit {number % 9},shape {number}\n" for number in range(10)]
    (tmp_path / "map.csv").write_text("".join(lines) + "digit 9,digit 9\n")
    expected = {f"shape {number} (digit {number % 9})" for number in range(10)}
    expected |= {"shape 10", "shape 11", "shape 12", "digit 9"}
    written = texts_that_are_drawn(monkeypatch)
    place = ["--view", "3:0", "-o", str(tmp_path / "view.png"), "--data", NAMED]
    cache = f"{tmp_path}/cache,classes={tmp_path}/map.csv,names={names}"
    done = CliRunner().invoke(main, ["show", cache, *place])
    assert done.exit_code == 0, done.output
    drawn = {text for text in written if text in expected}
    assert len(drawn) == 5 and any("(" in text for text in drawn)
    for options, message in {
        f"names={names}": "add classes=FILE.csv",
        f"classes={tmp_path}/none.csv": "none.csv",
        f"class={tmp_path}/map.csv": "did you mean 'classes'",
    }.items():
        done = CliRunner().invoke(main, ["show", f"{tmp_path}/cache,{options}", *place])
        assert done.exit_code != 0 and message in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--view", "3", "-o", "a.png", "--data", DIGITS], "view is '3'; it must be INDEX:SEED"),
        (
            ["--view", "64:0", "-o", "a.png", "--data", DIGITS],
            "view 64:0 is of no sample; the cache has samples 0 to 63",
        ),
        (["--view", "3:9", "-o", "a.png", "--data", DIGITS], "seed 9"),
        (
            ["--view", "3:0", "-o", "a.png"],
            "; if that is right, add --data tiny_models:few_digits,length=64",
        ),
        (["--view", "3:0", "-o", "a.txt", "--data", DIGITS], "no known format"),
        (["--view", "3:0", "-o", "a.png", "--data", "digits:test"], "is not what cache"),
    ],
)
def test_mistakes_are_one_line(caches: Path, words: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["show", str(caches / "digits"), *words])
    assert (
        done.exit_code != 0
        and message in done.stderr
        and len(done.stderr.strip().splitlines()) == 1
    ), done.stderr
