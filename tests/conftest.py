"""Shapes in signatures are checked here and nowhere else: the hook wraps each function of the package as it is imported."""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("kdcache", "beartype.beartype")

settings.register_profile("kdcache", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("kdcache")
