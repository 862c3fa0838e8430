"""Functions of the user's that a spec names."""

import sys
from pathlib import Path

import pytest

from kdcache.config.spec import Spec, parse_spec
from kdcache.config.user_functions import check_options, load_function
from kdcache.errors import UsageError


def test_options_are_checked_against_the_signature() -> None:
    check_options(lambda width=1: width, Spec("m", "f", {"width": 3}), "model")
    check_options(lambda **anything: anything, Spec("m", "f", {"width": 3}), "model")
    with pytest.raises(
        UsageError, match="unknown option of model m:f, 'widht'; did you mean 'width'"
    ):
        check_options(lambda width=1: width, Spec("m", "f", {"widht": 3}), "model")
    check_options(iter, Spec("m", "f", {"width": 3}), "model")  # of which Python does not know


def test_a_module_of_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spec_made_here.py").write_text("def make(x=1):\n    return x * 2\n\nVALUE = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_function(parse_spec("spec_made_here:make,x=4"), "model", []) == 8
    with pytest.raises(
        UsageError, match=r"unknown function of module spec_made_here 'VALUE' \(known: make\)"
    ):
        load_function(parse_spec("spec_made_here:VALUE"), "model", [])
    with pytest.raises(
        UsageError,
        match=(
            r"unknown model \(and no module of that name .*\) 'spec_made_heer'; did you mean"
            r" 'spec_made_here'"
        ),
    ):
        load_function(parse_spec("spec_made_heer:make"), "model", ["spec_made_here"])
    with pytest.raises(UsageError, match="no module of that name"):
        load_function(parse_spec("no_such_package.models:make"), "model", [])
