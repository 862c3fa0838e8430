"""stdout and stderr of any encoding, where what they cannot show is escaped."""

import codecs
import io
import sys

_ASCII = "kdcache_ascii"


class _AsciiEncoder(codecs.IncrementalEncoder):
    """ASCII, and escapes for all else."""

    def encode(self, text: str, final: bool = False) -> bytes:
        return text.encode("ascii", "backslashreplace")


def _ascii_codec(name: str) -> codecs.CodecInfo | None:
    """Return ASCII under another name, since click writes UTF-8 into a stream that calls itself
    ASCII."""
    if name != _ASCII:
        return None
    ascii_codec = codecs.lookup("ascii")
    return codecs.CodecInfo(
        ascii_codec.encode,
        ascii_codec.decode,
        name=_ASCII,
        incrementalencoder=_AsciiEncoder,
        incrementaldecoder=ascii_codec.incrementaldecoder,
    )


codecs.register(_ascii_codec)


def escape_what_cannot_be_shown() -> None:
    """Have stdout and stderr escape what their encoding lacks, instead of ending in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        encoding = None
        if codecs.lookup(stream.encoding).name == "ascii":
            encoding = _ASCII
        stream.reconfigure(encoding=encoding, errors="backslashreplace")
