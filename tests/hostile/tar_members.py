"""Attacks by the members of a webdataset store's tars."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hostile.forge import (
    Attack,
    Evil,
    change_object,
    evil,
    many,
    tars,
)

from kdcache.sources.tar_reader import END


def members(*pairs: tuple[str, bytes] | tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for pair in pairs:
            info = pair if isinstance(pair, tarfile.TarInfo) else tarfile.TarInfo(pair[0])
            data = b"" if isinstance(pair, tarfile.TarInfo) else pair[1]
            info.size = len(data) if not isinstance(pair, tarfile.TarInfo) else 0
            tar.addfile(info, io.BytesIO(data))
        end = tar.offset
    # tarfile fills up with more zeros than kdcache's tars have
    return out.getvalue()[: end + END]


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)  # objects too, as pickles
    return out.getvalue()


def pickled_npy(path: Path) -> bytes:
    return npy(np.array([Evil(str(path / "owned"))]))


RECORD = npy(np.zeros((2, 10), np.uint8))
GOOD = [(f"a%2F{row}.records.npy", RECORD) for row in range(8)]


def header_of(shape: str) -> bytes:
    text = ("{'descr': '|u1', 'fortran_order': False, 'shape': " + shape + ", }").ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(20)


def _first(name: str, data: bytes) -> Callable[[Path], bytes]:
    return lambda path: members((name, data), *GOOD[1:])


def pax(records: bytes) -> bytes:
    info = special("././@PaxHeader", tarfile.XHDTYPE)
    info.size = len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


TARS: dict[str, Callable[[Path], bytes]] = {
    "tar_with_a_pickled_npy": lambda path: members(("a%2F0.records.npy", pickled_npy(path)), *GOOD[1:]),
    "tar_with_a_pickle_as_npy": lambda path: members(("a%2F0.records.npy", evil(path)), *GOOD[1:]),
    "tar_with_a_pickle_beside": lambda path: members(("a%2F0.pkl", evil(path)), ("a%2F0.cls", b"1"), *GOOD),
    "tar_with_a_pickle_alone": lambda path: members(("a%2F0.pkl", evil(path)), *GOOD),
    "tar_with_a_huge_npy": _first("a%2F0.records.npy", header_of("(1000000000000000000, 10)")),
    "tar_with_a_deep_npy": _first("a%2F0.records.npy", header_of("(" * 50)),
    "tar_with_a_path_up": _first("../../evil.records.npy", RECORD),
    "tar_with_a_path_up_inside": _first("a/../../evil.records.npy", RECORD),
    "tar_with_an_absolute_path": _first("/etc/passwd.records.npy", RECORD),
    "tar_with_a_slash": _first("a/0.records.npy", RECORD),
    "tar_with_a_key_twice": lambda path: members(GOOD[1], *GOOD[1:]),
    "tar_with_a_key_twice_otherwise_written": _first("%61%2F1.records.npy", RECORD),
    "tar_with_a_link": lambda path: members(special("a%2F0.records.npy", tarfile.SYMTYPE, "/etc/passwd"), *GOOD[1:]),
    "tar_with_a_hard_link": lambda path: members(special("a%2F0.records.npy", tarfile.LNKTYPE, "/etc/passwd"), *GOOD[1:]),
    "tar_with_a_device": lambda path: members(special("a%2F0.records.npy", tarfile.CHRTYPE), *GOOD[1:]),
    "tar_with_a_pipe": lambda path: members(special("a%2F0.records.npy", tarfile.FIFOTYPE), *GOOD[1:]),
    "tar_with_more_rows": lambda path: members(*GOOD, ("a%2F9.records.npy", RECORD)),
    "tar_with_fewer_rows": lambda path: members(*GOOD[:-1]),
    "tar_with_a_label_that_is_code": lambda path: members(("a%2F0.png", b"x"), ("a%2F0.cls", b"__import__('os')"), *GOOD),
    "tar_with_a_mask_for_a_label": lambda path: members(("a%2F0.png", b"x"), ("a%2F0.mask.png", b"x"), *GOOD),
    "tar_with_a_header_of_many_fields": lambda path: pax(b"8 a=bcd\n" * 131_072) * 20,
    "tar_with_many_headers": lambda path: pax(b"8 a=bcd\n" * 8000) * 20,
    "tar_with_a_name_of_a_megabyte": lambda path: pax(b"1000020 path=" + "ü".encode() * 500_003 + b"\n") + members(*GOOD),
    "tar_with_a_size_beyond": lambda path: pax(b"17 size=99999999\n") + members(*GOOD),
    "tar_with_a_size_of_many_digits": lambda path: pax(b"9011 size=" + b"9" * 9000 + b"\n") + members(*GOOD),
    "tar_that_is_compressed": lambda path: b"\x1f\x8b" + bytes(1022),
    "tar_with_a_folder": lambda path: members(special("a", tarfile.DIRTYPE), *GOOD),
    "tar_of_folders": lambda path: members(special("a", tarfile.DIRTYPE))[:512] * 20_000 + bytes(1024),
    "tar_with_two_headers_before_a_member": lambda path: pax(b"11 path=ab\n") * 2 + members(*GOOD),
    "tar_with_a_header_of_a_kilobyte": lambda path: pax(b"8 a=bcd\n" * 129) + members(*GOOD),
    "tar_of_zeros": lambda path: bytes(1024),
    "tar_of_many_zeros": lambda path: bytes(1 << 20),
    "tar_that_goes_on": lambda path: members(*GOOD) + bytes(512),
    "tar_with_a_long_name": _first("a" * 4000 + ".records.npy", RECORD),
}  # fmt: skip


def _tar(make: Callable[[Path], bytes]) -> Attack:
    return lambda path: (tars(path), change_object(path, make(path.parent)))[-1]


many(
    r"unit 0 .*(member|it is|it holds|a key comes twice|it goes on after|extended headers)",
    TARS,
    _tar,
)
