"""What a file is, by its first bytes: for messages about a file that is not what it should be."""

from collections.abc import Mapping

_STARTS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"II*\0": "a TIFF image",
    b"MM\0*": "a TIFF image",
    b"%!PS": "a PostScript file",
    b"\xc5\xd0\xd3\xc6": "a PostScript file",
    b"%PDF": "a PDF",
    b"8BPS": "a Photoshop file",
    b"SIMPLE  =": "a FITS file",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\xff\x4f\xff\x51": "a JPEG 2000 image",
    b"\0\0\0\x0cJXL ": "a JPEG XL image",
    b"\xff\x0a": "a JPEG XL image",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"\0\0\x01\0": "an icon",
    b"DDS ": "a DDS texture",
    b"\x93NUMPY": "a numpy array",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file",
    b"PK\x03\x04": "a zip archive (as Excel's .xlsx and numpy's .npz are)",
    b"\xd0\xcf\x11\xe0": "an old Excel or Word file",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\x7fELF": "a program",
    b"GGUF": "a GGUF file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a RAR archive",
}
_LATER = ((4, b"TFL3", "a TensorFlow Lite model"), (257, b"ustar", "a tar archive"))
"""What tells a file some bytes after its start."""
_TEXT_STARTS = {
    b"version https://git-lfs": "a pointer of git-lfs (git lfs pull fetches the file itself)",
    b"<!DOCTYPE": "a web page (a download that failed?)",
    b"<!doctype": "a web page (a download that failed?)",
    b"<html": "a web page (a download that failed?)",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML file",
}
_BRANDS = {
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"mif1": "a HEIF image",
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"hevc": "a HEIC image",
    b"heim": "a HEIC image",
}
ZEROS = "a file that begins with zero bytes"
_ALL_ZEROS = 64
_LONGEST_HEAD = 512


def kind_of(data: bytes) -> str | None:
    """Return what `data`, the contents of a file or their beginning, is of; None if nothing
    tells."""
    if not data:
        return "an empty file"
    return binary_kind_of(data) or _first_of(_TEXT_STARTS, data[:_LONGEST_HEAD].lstrip())


def binary_kind_of(data: bytes) -> str | None:
    """Return what `data`, the contents of a file or their beginning, is of; None of text."""
    head = data[:_LONGEST_HEAD]
    if not head[:_ALL_ZEROS].strip(b"\0"):
        return ZEROS
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "a film")
    for offset, part, kind in _LATER:
        if head[offset:].startswith(part):
            return kind
    return _first_of(_STARTS, head) or _first_of(_STARTS, head.lstrip())


def _first_of(starts: Mapping[bytes, str], head: bytes) -> str | None:
    for start, kind in starts.items():
        if head.startswith(start):
            return kind
    return None
