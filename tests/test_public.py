"""The public names: complete, described, and imported without torch."""

import inspect
import os
import pkgutil
import subprocess
import sys
from importlib import import_module

import pytest

import kdcache

MODULES = [
    "kdcache",
    *(module.name for module in pkgutil.walk_packages(kdcache.__path__, "kdcache.")),
]


def test_every_public_name_is_there_and_described() -> None:
    assert sorted(kdcache.__all__) == list(kdcache.__all__) == sorted(kdcache._HOMES)
    for name in kdcache.__all__:
        thing = getattr(kdcache, name)
        assert thing.__name__ == name and inspect.getdoc(thing), name
        assert thing.__module__.startswith(f"kdcache.{kdcache._HOMES[name]}")


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kdcache' has no attribute 'open_cahce'"):
        kdcache.open_cahce  # noqa: B018


def test_every_module_and_what_it_exports_is_described() -> None:
    for name in MODULES:
        module = import_module(name)
        assert module.__doc__, name
        for export in getattr(module, "__all__", []):
            assert hasattr(module, export), f"{name}.{export}"
        for label, thing in vars(module).items():
            if (
                not label.startswith("_")
                and inspect.isroutine(thing) | inspect.isclass(thing)
                and thing.__module__ == name
            ):
                assert inspect.getdoc(thing), f"{name}.{label}"


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, kdcache.errors; print(sorted({'torch', 'numpy', 'zarr', 'timm'} &"
        " set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
