"""Commands whose stdin, stdout or stderr is closed or full, and whose folder is gone."""

import subprocess
import sys
from pathlib import Path

import pytest
from caches import contents
from click.testing import CliRunner

from kdcache_cli.commands import main

GOLDEN = Path(__file__).parent.parent / "golden" / "v1-full"
KDCACHE = (sys.executable, "-m", "kdcache")


def sh(line: str, *words: object) -> "subprocess.CompletedProcess[str]":
    """Return what a line of the shell does, in which `"$@"` are the words."""
    command = ["sh", "-c", line, "sh", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_closed_streams_are_open_on_nothing_and_no_file_takes_their_place(tmp_path: Path) -> None:
    copied = sh('exec "$@" <&- >&- 2>&-', *KDCACHE, "merge", tmp_path / "copy", GOLDEN)
    assert copied.returncode == 0
    want = {name: data for name, (data, _) in contents(GOLDEN).items() if "/c/" in name}
    have = {name: data for name, (data, _) in contents(tmp_path / "copy").items() if "/c/" in name}
    assert want and have == want
    assert sh('exec "$@" >&-', *KDCACHE, "info", GOLDEN).returncode == 0


def test_messages_that_cannot_be_written_end_no_work() -> None:
    program = (
        "import sys; from kdcache_cli.streams import prepare_streams; prepare_streams();"
        "print('a message', file=sys.stderr, flush=True); print('done')"
    )
    done = sh('exec "$@" 2>/dev/full', sys.executable, "-c", program)
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize("words", [("info", GOLDEN), ("--help",), ("info", "--help")])
def test_results_that_cannot_be_written_are_an_error_with_the_way_out(
    words: tuple[object, ...],
) -> None:
    done = sh('exec "$@" >/dev/full', *KDCACHE, *words)
    assert done.returncode == 1
    told = "cannot write to stdout: No space left on device; send it elsewhere, or make room"
    assert done.stderr == f"kdcache: error: {told}\n"


def test_a_reader_that_has_enough_is_no_error() -> None:
    done = sh('"$@" | head -c 1', *KDCACHE, "info", GOLDEN, "--json")
    assert (done.stdout, done.stderr) == ("{", "")


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    line = f'cd {tmp_path}/gone && rmdir {tmp_path}/gone && exec "$@"'
    done = sh(line, *KDCACHE, "codec-error", GOLDEN, "--plot", "a.png")
    assert done.returncode == 1
    assert done.stderr.startswith("kdcache: error: the folder that this command was called in is")


def test_a_name_that_the_locale_cannot_write_is_told() -> None:
    @main.command("write-a-name", hidden=True)
    def write() -> None:
        "läufe/1".encode("ascii")

    try:
        result = CliRunner().invoke(main, ["write-a-name"])
    finally:
        del main.commands["write-a-name"]
    assert result.exit_code == 1 and result.stderr == (
        "kdcache: error: 'läufe/1' cannot be written in ascii, the encoding of this locale; set"
        " PYTHONUTF8=1\n"
    )
