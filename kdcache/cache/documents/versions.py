"""The versions of the libraries that decide pixels and logits."""

import platform
from functools import cache
from importlib import metadata

from PIL import features

from kdcache.version import __version__


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of everything that can change a pixel or a logit.

    JPEG leaves the last bit of a pixel to the decoder, and Pillow comes with one or takes the
    system's.
    """
    versions = {"kdcache": __version__, "python": platform.python_version()}
    for name in ("torch", "torchvision", "timm", "numpy", "pillow", "zarr"):
        versions[name] = metadata.version(name)
    turbo = features.version_feature("libjpeg_turbo")
    if turbo:
        versions["libjpeg"] = f"turbo {turbo}"
    else:
        versions["libjpeg"] = str(features.version_codec("jpg"))
    return versions
