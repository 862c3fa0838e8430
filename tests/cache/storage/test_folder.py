import errno
import os
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from caches import contents, temporaries
from runs import largest_file

from kdcache.cache.storage import rename
from kdcache.cache.storage.folder import Folder
from kdcache.cache.storage.new_file import create_file
from kdcache.cache.storage.protocol import removal
from kdcache.errors import CacheError


def in_child(work: Callable[[], Any]) -> int:
    """Run `work` in a forked process and return the process's id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def test_a_key_is_written_once(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.publish("a/b/key", b"first")
    before = contents(tmp_path)
    assert not folder.publish("a/b/key", b"second")
    assert contents(tmp_path) == before and set(before) == {"a/b/key"}
    assert (
        folder.get("a/b/key") == b"first" and folder.exists("a/b/key") and not folder.exists("a/b")
    )
    with pytest.raises(FileNotFoundError):
        folder.get("a/b/other")


def test_of_many_threads_exactly_one_wins(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for key in map(str, range(20)):
        barrier, won = threading.Barrier(6), []

        def write(
            writer: int, key: str = key, barrier: threading.Barrier = barrier, won: list[int] = won
        ) -> None:
            barrier.wait()
            if folder.publish(f"folder{key}/key", bytes([writer]) * 1000):
                won.append(writer)

        threads = [threading.Thread(target=write, args=(writer,)) for writer in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and folder.get(f"folder{key}/key") == bytes(won) * 1000
    assert not list(temporaries(folder))


def test_of_many_processes_exactly_one_wins(tmp_path: Path) -> None:
    keys = [f"{number}/key" for number in range(30)]

    def write(writer: int) -> None:
        won = [
            key for key in keys if Folder(tmp_path / "folder").publish(key, bytes([writer]) * 5000)
        ]
        (tmp_path / f"won{writer}").write_text(" ".join(won))

    children = [in_child(lambda writer=writer: write(writer)) for writer in range(4)]  # type: ignore[misc]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    winner = {
        key: writer
        for writer in range(4)
        for key in (tmp_path / f"won{writer}").read_text().split()
    }
    assert (
        sum(len((tmp_path / f"won{writer}").read_text().split()) for writer in range(4))
        == len(keys)
        == len(winner)
    )
    folder = Folder(tmp_path / "folder")
    assert all(folder.get(key) == bytes([writer]) * 5000 for key, writer in winner.items())
    assert not list(temporaries(folder))


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.publish("kept", b"kept")
    with (
        largest_file(1000),
        pytest.raises(
            CacheError, match=r"key \(2000 bytes\).*free some space and run the same command"
        ),
    ):
        folder.publish("key", bytes(2000))
    assert set(contents(tmp_path)) == {"kept"}
    assert folder.publish("key", bytes(2000))


@pytest.mark.parametrize("key", ["file/key", "file/folder/key", "file/folder/folder/key"])
def test_a_file_where_a_folder_is_needed(tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(CacheError, match=r"cannot write .*a file stands where a folder is needed"):
        Folder(tmp_path).publish(key, b"data")
    assert {name: data for name, (data, _) in contents(tmp_path).items()} == {"file": b"mine"}


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="needs a folder that not even root can write"
)
def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(
        CacheError,
        match=r"cannot write /proc/kdcache/key \(4 bytes\).*choose a folder that can be written",
    ):
        Folder("/proc/kdcache").publish("key", b"data")


@pytest.mark.parametrize("step", ["fsync", "link", "unlink"])
def test_a_writer_killed_at_a_step_leaves_a_whole_object_or_none(tmp_path: Path, step: str) -> None:
    folder = Folder(tmp_path)

    def killed() -> None:
        folder.publish("exists", b"")  # the folder itself is not synced again
        setattr(os, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        folder.publish("key", b"whole")

    status = os.waitpid(in_child(killed), 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert len(list(temporaries(folder))) == 1
    assert list(folder.list("")) == (["exists", "key"] if step == "unlink" else ["exists"])
    assert folder.publish("key", b"other") == (step != "unlink")
    assert folder.get("key") == (b"whole" if step == "unlink" else b"other")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells what is synced from /proc")
def test_the_object_and_every_folder_made_for_it_are_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, link = os.fsync, os.link

    def watched_fsync(descriptor: int) -> None:
        steps.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def watched_link(source: Any, target: Any) -> None:
        steps.append("link")
        link(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    folder = Folder(tmp_path)
    folder.publish("a/b/key", b"data")
    above, *steps = steps
    assert above == str(tmp_path.parent), "the cache's own name"
    assert steps[:2] == [str(tmp_path), str(tmp_path / "a")], "the names of the folders a and b"
    assert steps[2].endswith(".tmp") and steps[3:] == ["link", str(tmp_path / "a" / "b")]
    steps.clear()
    folder.publish("a/b/other", b"data")
    assert len(steps) == 3, "what this process has synced once it need not sync again"
    steps.clear()
    Folder(tmp_path).publish("a/b/third", b"data")
    assert str(tmp_path / "a") in steps, "who made b may have been killed before it was synced"


@pytest.mark.parametrize("code", ["ENOSYS", "EXDEV", "EPERM", "ENOTSUP", "EMLINK", "EINVAL"])
def test_without_hard_links_a_name_is_given_once_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(os, "link", failing(getattr(errno, code)))
    folder = Folder(tmp_path / "folder")
    folder.probe()
    assert folder.publish("a/b", b"first") and not folder.publish("a/b", b"second")
    assert folder.get("a/b") == b"first" and not list(temporaries(folder))
    (tmp_path / "folder" / "a" / "c").write_bytes(b"came between")
    assert not create_file(tmp_path / "folder" / "a" / "c", b"mine"), (
        "it is the system that says so, not a look before"
    )


def test_what_a_file_system_lacks_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.ENOSYS))
    monkeypatch.setattr(rename, "rename_new", failing(errno.EINVAL))
    folder = Folder(tmp_path)
    message = (
        r"makes no hard links \(Function not implemented\) and cannot rename .* \(Invalid"
        r" argument\).*or a bucket$"
    )
    for action in (folder.probe, lambda: folder.publish("a", b"1")):
        with pytest.raises(CacheError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", ["EINVAL", "ENOTSUP", "EBADF", "ENOSYS"])
def test_a_folder_that_cannot_be_synced_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(os, "fsync", failing_for_folders(getattr(errno, code)))
    folder = Folder(tmp_path)
    folder.probe()
    assert folder.publish("a", b"1") and not folder.publish("a", b"2")


def test_an_error_of_the_disk_in_syncing_a_folder_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing_for_folders(errno.EIO))
    for action in (Folder(tmp_path).probe, lambda: Folder(tmp_path).publish("a", b"1")):
        with pytest.raises(CacheError, match="Input/output error"):
            action()


def test_what_cannot_be_written_is_told_by_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Folder(tmp_path / "a" / "b").probe()
    assert list(tmp_path.iterdir()) == [], "it is tried in the nearest folder, and no other is made"
    with pytest.raises(
        CacheError, match=r"cannot write /proc/kdcache/a: .*choose a folder that can be written"
    ):
        Folder("/proc/kdcache/a").probe()
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"a file stands where a folder is needed \(.*/file\)"):
        Folder(tmp_path / "file" / "a").probe()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        CacheError, match=rf"cannot write {tmp_path}/a: {tmp_path} cannot be written"
    ):
        Folder(tmp_path / "a").probe(writes=False)


def test_a_file_system_that_gives_a_name_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", os.replace)
    with pytest.raises(
        CacheError, match=r"its file system gives a name twice.*another file system"
    ):
        Folder(tmp_path).probe()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reads", [True, False])
def test_a_folder_that_is_gone_is_not_made_anew(tmp_path: Path, reads: bool) -> None:
    folder = Folder(tmp_path / "folder")
    folder.publish("a/b", b"1")
    if reads:
        folder = Folder(tmp_path / "folder")
        folder.get("a/b")
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    for key in ("a/c", "c", "d/e"):
        with pytest.raises(
            CacheError, match=r"cannot write into .*/folder: it was moved or removed.*put it back"
        ):
            folder.publish(key, b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]
    (tmp_path / "elsewhere").rename(tmp_path / "folder")
    assert folder.publish("a/c", b"2")


def failing(code: int) -> Callable[..., Any]:
    """Return a call of the system that gives an error."""

    def call(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return call


def failing_for_folders(code: int) -> Callable[[int], None]:
    fsync = os.fsync

    def call(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    return call


def test_list_is_sorted_and_leaves_temporary_files_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for key in ("f/2", "f/10", "f/1/deeper"):
        folder.publish(key, b"")
    (tmp_path / "f" / ".2.0123456789abcdef.tmp").touch()
    assert list(folder.list("f")) == ["1", "10", "2"]
    assert list(folder.list("absent")) == list(folder.list("f/2")) == []
    assert [entry.key for entry in temporaries(folder)] == ["f/.2.0123456789abcdef.tmp"]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EIO, "Input/output error; see that its disk or mount is well, and run again"),
        (errno.EACCES, "Permission denied; have its owner allow it"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    folder = Folder(tmp_path)
    folder.publish("a/b/key", b"data")
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if Path(path).name == "b":
            raise OSError(number, os.strerror(number), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(CacheError, match=f"cannot list .*a/b: {told}"):
        list(folder.walk())
    assert list(folder.walk("absent")) == []


def test_a_listing_follows_no_link_and_tells_a_folder_that_lies_too_deep(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "cache")
    deep = "/".join(["d"] * 31)
    for key in ("a/b/c", "z", f"{deep}/last"):
        folder.publish(key, b"x")
    (tmp_path / "cache" / "loop").symlink_to(tmp_path / "cache")
    (tmp_path / "cache" / "gone").symlink_to(tmp_path / "nowhere")
    assert sorted(entry.key for entry in folder.walk()) == [
        "a/b/c",
        f"{deep}/last",
        "gone",
        "loop",
        "z",
    ]
    assert [entry.key for entry in folder.walk("a")] == ["a/b/c"] and list(
        folder.walk("nothing")
    ) == []
    (tmp_path / "cache" / deep / "d" / "d").mkdir(parents=True)
    with pytest.raises(CacheError, match=r"folder d/d/.*d/d lies too deep for a cache: remove it"):
        list(folder.walk())


def test_no_listing_goes_out_of_the_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "cache")
    folder.publish("seeds/0/key", b"x")
    (tmp_path / "other" / "00001").mkdir(parents=True)
    (tmp_path / "cache" / "commits").symlink_to(tmp_path / "other")
    for listing in (lambda: folder.list("commits"), lambda: folder.walk("commits")):
        with pytest.raises(
            CacheError, match=r"cache/commits is a link out of .*cache; put the file itself there"
        ):
            list(listing())
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    assert [entry.key for entry in Folder(tmp_path / "link").walk("seeds")] == ["seeds/0/key"], (
        "the cache may be one"
    )
    assert list(Folder(tmp_path / "link").list("")) == ["commits", "seeds"]


def test_behind_a_file_in_the_place_of_a_folder_there_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b"x")
    folder = Folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        folder.get("c/0")
    assert not folder.exists("c/0")


def test_a_message_says_how_to_remove_a_cache() -> None:
    assert removal("caches/r50") == "remove the folder (rm -r caches/r50)"
    assert removal("my caches/r50") == "remove the folder (rm -r 'my caches/r50')"
    assert removal("s3://bucket/r50") == "remove all below s3://bucket/r50/"
