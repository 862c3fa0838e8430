"""The version of kdcache, which manifests and commits record."""

__version__ = "0.1.0"
