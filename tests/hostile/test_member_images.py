"""Images that a forged cache holds are opened by a list of formats: none of them has Pillow run
another program."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from caches import manifest
from hostile.forge import SOURCE, STORE
from PIL import EpsImagePlugin

from kdcache.cache import create_cache
from kdcache.cache.committing import commit_unit
from kdcache.cache.formats.protocol import StoredSample
from kdcache.cache.source import CachedSource
from kdcache.errors import UnreadableSampleError

EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\n(x) (w) file"
    b" closefile\nshowpage\n"
)


@pytest.mark.parametrize("extension", ["png", "jpg", "tif"])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (EPS, "a PostScript file"),
        (b"8BPS\0\1" + bytes(60), "a Photoshop file"),
        (b"SIMPLE  =" + bytes(60), "a FITS file"),
    ],
)
def test_a_member_of_another_format_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, data: bytes, kind: str
) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args: ran.append(args))
    cache = create_cache(tmp_path, manifest(source=SOURCE, **STORE))
    for unit in range(cache.manifest.num_units):
        rows = cache.manifest.unit_range(unit)
        samples = [StoredSample(f"a/{row}", extension, data, b"1") for row in rows]
        commit_unit(cache, 0, unit, np.zeros((2, len(rows)), cache.manifest.dtype), samples)
    with pytest.raises(UnreadableSampleError, match=f"cannot be read: it is {kind}; images are "):
        CachedSource(cache).sample(0)
    assert not ran
