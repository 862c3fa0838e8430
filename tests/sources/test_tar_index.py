"""Indexes of tars: every sample of a sound tar, one clear line for any other, and a kept index that
is never stale."""

import io
import multiprocessing
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_files import LONG_AGO, age, picture, write_shards, write_tar

from kdcache.errors import SourceError
from kdcache.runtime.home import home_folder
from kdcache.sources.tar_index import Shard, index_tar

SAMPLE = {"a.png": picture(1), "a.cls": b"1"}


def tables(shard: Shard) -> list[tuple[str, int, int, int]]:
    columns = (shard.keys, shard.offsets.tolist(), shard.sizes.tolist(), shard.targets.tolist())
    return list(zip(*columns, strict=True))


def read(shard: Shard, index: int) -> bytes:
    data = Path(shard.path).read_bytes()
    return data[shard.offsets[index] :][: shard.sizes[index]]


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "home"))


def kept_files() -> list[Path]:
    return sorted((home_folder() / "tars").glob("*"))


@pytest.mark.parametrize(
    "form",
    [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT],
    ids=["ustar", "gnu", "pax"],
)
def test_all_formats_are_read(tmp_path: Path, form: int) -> None:
    long = "folder/" * 12 + "k" * (60 if form == tarfile.USTAR_FORMAT else 160)
    members = {
        f"{long}.JPG": b"image",
        f"{long}.cls": b"7\n",
        "./b.png": b"other",
        "b.cls": b" 0",
        "b.txt": b"x",
        "note": b"",
    }
    shard = index_tar(str(write_tar(tmp_path / "x.tar", members, form=form)), "cls")
    assert [(key, target) for key, _, _, target in tables(shard)] == [(long, 7), ("b", 0)]
    assert [read(shard, 0), read(shard, 1)] == [b"image", b"other"]


KEYS = st.text(st.characters(exclude_characters="./\0", codec="utf-8"), min_size=1)


@given(st.dictionaries(KEYS, st.binary(max_size=1500), min_size=1))
def test_every_member_of_a_tar_is_found(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, bytes]
) -> None:
    members: dict[str, bytes] = {}
    for number, (key, data) in enumerate(images.items()):
        members |= {f"{key}.png": data, f"{key}.cls": str(number).encode()}
    shard = index_tar(str(write_tar(tmp_path_factory.mktemp("tar") / "x.tar", members)), "cls")
    assert list(shard.keys) == [shard.keys[index] for index in range(len(images))] == list(images)
    assert [read(shard, index) for index in range(len(images))] == list(images.values())
    assert shard.targets.tolist() == list(range(len(images)))


def test_a_key_ends_at_the_first_dot_as_in_webdataset(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(
        str(tmp_path / "x.tar")
    ) as writer:  # pax headers: its times are not whole seconds
        for key in ("n01/0001", "v1.5/0002"):
            writer.write(
                {
                    "__key__": key,
                    "jpg": picture(3),
                    "cls": 2,
                    "seg.png": b"not the image",
                    "json": {"label": 5},
                }
            )
    shard = index_tar(str(tmp_path / "x.tar"), "cls")
    assert (
        list(shard.keys) == ["n01/0001", "v1.5/0002"]
        and shard.targets.tolist() == [2, 2]
        and read(shard, 1) == picture(3)
    )
    streamed = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    assert [sample["__key__"] for sample in streamed] == list(shard.keys)
    assert index_tar(str(tmp_path / "x.tar"), "label").targets.tolist() == [5, 5]


def test_members_of_a_key_may_lie_apart_and_folders_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name, data in {
        "a.png": picture(1),
        "b.png": picture(2),
        "a.cls": b"1",
        "b.cls": b"0",
        "._a.png": b"from a Mac",
    }.items():
        (tmp_path / "data" / name).write_bytes(data)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "data", arcname="data")
    rows = {
        (key, target) for key, _, _, target in tables(index_tar(str(tmp_path / "x.tar"), "cls"))
    }
    assert rows == {("data/a", 1), ("data/b", 0)}


@pytest.mark.parametrize("cut", [1, 511, 512, 513, 1024, 1500, 2048, 2049])
def test_a_tar_that_is_cut_short_anywhere_is_refused(tmp_path: Path, cut: int) -> None:
    path = write_tar(tmp_path / "x.tar", {**SAMPLE, "b.png": picture(2), "b.cls": b"0"})
    end = path.read_bytes().rstrip(b"\0")
    whole = -(-len(end) // 512) * 512  # the last member's last block; the end mark follows
    path.write_bytes(path.read_bytes()[: whole + 512 - cut])
    with pytest.raises(
        SourceError, match=rf"tar {path}: it is cut short: .* (ends at byte|after member)"
    ):
        index_tar(str(path), "cls")


def test_a_tar_cut_within_an_image_says_where(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {**SAMPLE, "b.cls": b"0", "b.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(
        SourceError,
        match=r"it is cut short: member b\.png ends at byte 8584, the file at 4000; copy it again",
    ):
        index_tar(str(path), "cls")


def link(kind: bytes) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        header = tarfile.TarInfo("evil.png")
        header.type, header.linkname = kind, "/etc/passwd"
        tar.addfile(header)

    return add


def sized(**pax: str) -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        header = tarfile.TarInfo("evil.png")
        header.pax_headers = pax
        tar.addfile(header)

    return add


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (link(tarfile.SYMTYPE), "member evil.png is a symbolic link; only plain files are read"),
        (link(tarfile.LNKTYPE), "member evil.png is a hard link"),
        (link(tarfile.CHRTYPE), "member evil.png is a device"),
        (link(tarfile.FIFOTYPE), "member evil.png is a pipe"),
        (link(tarfile.GNUTYPE_SPARSE), "member evil.png is a sparse file"),
        (link(b"Z"), "member evil.png is of type b'Z'"),
        (sized(size="-512"), "member evil.png has size -512"),
        (sized(size="x"), "member evil.png has size x"),
        (sized(size=str(10**18)), "cut short: member evil.png ends at byte 10000000000000"),
        (sized(**{"GNU.sparse.major": "1"}), "member evil.png is a sparse file"),
        (sized(path="a\0b.png"), "holds a zero"),
    ],
)
def test_what_is_no_plain_file_is_refused(
    tmp_path: Path, add: Callable[[tarfile.TarFile], None], message: str
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        add(tar)
        tar.addfile(tarfile.TarInfo("after"))
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    with pytest.raises(SourceError, match=message):
        index_tar(str(tmp_path / "x.tar"), "cls")


def test_negative_sizes_do_not_turn_it_round(tmp_path: Path) -> None:
    for kind in (tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        header = tarfile.TarInfo("a.png")
        header.type = kind
        block = bytearray(header.tobuf(tarfile.GNU_FORMAT))
        block[124:136] = (-1024).to_bytes(12, "big", signed=True)  # GNU's base 256
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(10_240))
        with pytest.raises(SourceError, match=r"member a\.png has size -1024"):
            index_tar(str(tmp_path / "x.tar"), "cls")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_told_apart(tmp_path: Path, kind: str) -> None:
    with tarfile.open(tmp_path / "x.tar", f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(SourceError, match=r"it is compressed \((gzip|bzip2|xz)\); decompress it"):
        index_tar(str(tmp_path / "x.tar"), "cls")


def test_damage_in_a_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {**SAMPLE, "b.png": picture(2), "b.cls": b"0"})
    data = bytearray(path.read_bytes())
    place = data.index(b"b.png")
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        SourceError, match=rf"it is damaged at byte {place}, after member 'a.cls' \(bad checksum\)"
    ):
        index_tar(str(path), "cls")


def test_tars_that_were_joined_are_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", SAMPLE)
    path.write_bytes(path.read_bytes() + path.read_bytes())
    with pytest.raises(SourceError, match="goes on after its end mark"):
        index_tar(str(path), "cls")


@pytest.mark.parametrize(
    ("members", "target", "message"),
    [
        ({}, "cls", "it holds no image"),
        ({"a.txt": b"1"}, "cls", "it holds no image"),
        ({"a.png": b""}, "cls", r"key 'a' has no target \(KEY\.cls; or target=NAME"),
        (
            {"a.gif": b"", "a.cls": b"1"},
            "cls",
            r"image a\.gif would be left out: images are jpg, jpeg",
        ),
        ({"a.txt": b"", "a.cls": b"1"}, "cls", r"key 'a' has no image \(jpg, jpeg, png"),
        (
            {"a.png": b"", "a.jpg": b"", "a.cls": b"1"},
            "cls",
            r"key 'a' comes twice: a\.png and a\.jpg",
        ),
        ({"a.png": b"", "./a.png": b"", "a.cls": b"1"}, "cls", r"key 'a' comes twice"),
        (
            {"a.png": b"", "a.cls": b"cat"},
            "cls",
            r"member a\.cls must hold an integer from 0, not b'cat'",
        ),
        ({"a.png": b"", "a.cls": b"-1"}, "cls", "must hold an integer from 0, not b'-1'"),
        ({"a.png": b"", "a.cls": b"9" * 10}, "cls", "must hold an integer from 0"),
        ({"a.png": b"", "a.cls": bytes(2_000_000)}, "cls", "has 2000000 bytes"),
        (
            {"a.png": b"", "a.json": b"{"},
            "label",
            "must hold an object with an integer 'label' from 0",
        ),
        ({"a.png": b"", "a.json": b'{"label": true}'}, "label", "must hold an object"),
        ({"a.png": b"", "a.json": b'{"label": 1.0}'}, "label", "must hold an object"),
        ({"a.png": b"", "a.json": b'{"name": 1}'}, "label", "must hold an object"),
        ({"a.png": b"", "a.json": b"[1]"}, "label", "must hold an object"),
        ({"a.png": b"", "a.json": b"[" * 100_000}, "label", "must hold an object"),
    ],
)
def test_a_sample_lacks_nothing(
    tmp_path: Path, members: dict[str, bytes], target: str, message: str
) -> None:
    path = write_tar(tmp_path / "x.tar", members)
    with pytest.raises(SourceError, match=f"tar {path}: .*{message}"):
        index_tar(str(path), target)
    assert not kept_files()


def test_what_is_no_tar_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar" * 500)
    with pytest.raises(SourceError, match=r"it is not a tar \(invalid header\)"):
        index_tar(str(tmp_path / "x.tar"), "cls")
    with pytest.raises(SourceError, match=r"tar .* cannot be read: Is a directory"):
        index_tar(str(tmp_path), "cls")


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_any_bytes_are_an_index_or_one_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, place: int
) -> None:
    path = write_tar(tmp_path_factory.mktemp("tar") / "x.tar", SAMPLE)
    data = bytearray(path.read_bytes())
    data[place : place + len(noise)] = noise
    path.write_bytes(data)
    try:
        shard = index_tar(str(path), "cls")
    except SourceError as error:
        assert "\n" not in str(error)
    else:
        assert all(offset + size <= len(data) for _, offset, size, _ in tables(shard))


def test_an_index_is_kept_and_used_until_the_tar_changes(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", SAMPLE)
    first = index_tar(str(path), "cls")
    (kept,) = kept_files()
    path.write_bytes(
        bytes(path.stat().st_size)
    )  # of the same size, and made to look unchanged: only the kept index knows
    age(path)
    assert tables(index_tar(str(path), "cls")) == tables(first)
    write_tar(path, {"b.png": picture(1), "b.cls": b"2"})
    age(path, LONG_AGO + 1)
    assert [row[0] for row in tables(index_tar(str(path), "cls"))] == ["b"]
    assert kept_files() == [kept]  # one index for a tar, not one for each of its states


def test_indexes_of_other_targets_are_kept_apart(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {**SAMPLE, "a.json": b'{"label": 4, "other": 5}'})
    for _ in range(2):
        assert [
            int(index_tar(str(path), target).targets[0]) for target in ("cls", "label", "other")
        ] == [1, 4, 5]
    assert len(kept_files()) == 3


def test_nothing_is_kept_of_a_tar_that_may_still_change_within_a_tick(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", SAMPLE)
    os.utime(path)
    index_tar(str(path), "cls")
    assert not kept_files()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:90] + b"x" + data[91:]]
)
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write_tar(tmp_path / "x.tar", SAMPLE)
    rows = tables(index_tar(str(path), "cls"))
    (kept,) = kept_files()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert tables(index_tar(str(path), "cls")) == rows
    assert kept.read_bytes() == whole


def test_a_home_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("KDCACHE_HOME", str(tmp_path / "file"))
    assert len(index_tar(str(write_tar(tmp_path / "x.tar", SAMPLE)), "cls").keys) == 1


def index_many(paths: list[str]) -> list[list[tuple[str, int, int, int]]]:
    return [tables(index_tar(path, "cls")) for path in paths]


def test_processes_that_index_at_once_agree(tmp_path: Path) -> None:
    paths = sorted(map(str, write_shards(tmp_path / "set", *[9] * 12).iterdir()))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        results = pool.map(index_many, [paths] * 8, chunksize=1)
    assert all(result == results[0] for result in results) and len(kept_files()) == 12
    assert not list(home_folder().rglob("*.tmp"))
    assert index_many(paths) == results[0]
