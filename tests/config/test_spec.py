"""The grammar of specs, and the way of values into checked dataclasses."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.config.spec import Spec, build, choose, normal_spec, parse_spec
from kdcache.config.user_functions import check_options, load_function
from kdcache.errors import UsageError

TEXT = st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), max_size=12)
SPECIAL = ["true", "12", "1e5", " a", "a,b", "k=v", "", "/data/x=1", "é", "nan", "[", "[a]", "]"]
WORDS = st.one_of(TEXT, st.sampled_from(SPECIAL))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
ITEMS = st.one_of(WORDS, st.booleans(), NUMBERS)
VALUES = st.one_of(ITEMS, st.lists(ITEMS, max_size=3).map(tuple))
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]*", fullmatch=True)
KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True)


@given(NAMES, st.none() | WORDS, st.dictionaries(KEYS, VALUES, max_size=4))
def test_the_text_of_a_spec_parses_back_to_it(
    name: str, arg: str | None, options: dict[str, Any]
) -> None:
    spec = Spec(name, arg, options)
    again = parse_spec(str(spec))
    assert again == spec
    assert [kinds(value) for value in again.options.values()] == [
        kinds(value) for value in options.values()
    ]


def kinds(value: Any) -> Any:
    if isinstance(value, tuple):
        return [type(item) for item in value]
    return type(value)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    | st.from_regex(r'[a-c]:[a="1, ]{0,12}', fullmatch=True)
)
def test_any_text_parses_to_a_spec_that_stays_or_is_refused(text: str) -> None:
    try:
        spec = parse_spec(text)
    except UsageError:
        return
    assert parse_spec(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("ce", Spec("ce")),
        ("imagefolder:/data/train", Spec("imagefolder", "/data/train")),
        ("imagefolder:C:/data", Spec("imagefolder", "C:/data")),
        (
            "torchvision:FashionMNIST,root=data,train=true",
            Spec("torchvision", "FashionMNIST", {"root": "data", "train": True}),
        ),
        ("topk:k=16", Spec("topk", None, {"k": 16})),
        (
            "mypkg.models:build, width=2 , lr=1e-3",
            Spec("mypkg.models", "build", {"width": 2, "lr": 0.001}),
        ),
        ('imagefolder:"/data/a, b",x="1,2"', Spec("imagefolder", "/data/a, b", {"x": "1,2"})),
        ('m:f,x="12",y="true"', Spec("m", "f", {"x": "12", "y": "true"})),
        ("m:f,x=False,y=", Spec("m", "f", {"x": "False", "y": ""})),
        ("m:f,url=a=b", Spec("m", "f", {"url": "a=b"})),
        ('m:"k=v"', Spec("m", "k=v")),
    ],
)
def test_what_a_text_says(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "spec is empty; give a value, or leave it out"),
        ("kind:~/x", r"path of kind is '~/x'; ~ stays as it is here: write /"),
        (":k=3", "has no name"),
        ("topk:k=1,k=2", "gives 'k' twice"),
        ("m:f,x=nan", r"spec 'm:f,x=nan': x is nan; it must be a finite number, or text in double"),
        ("m:f,x=-1e999", "x is -inf; it must be a finite number"),
        ("m:f,second", "'second' is not key=value; put a value that holds a comma in quotes"),
        ('m:"open', "has an open quote"),
        ('m:f,x="open', "has an open quote"),
    ],
)
def test_a_text_that_is_no_spec(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_spec(text)


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = 1


@dataclass(frozen=True, kw_only=True)
class Table:
    name: str
    size: int = 3
    rate: float = 0.5
    on: bool = False
    kind: Literal["a", "bb"] = "a"
    limit: float | None = None
    steps: tuple[int, ...] = (1, 2)
    inner: Inner = field(default_factory=Inner)
    options: dict[str, Any] = field(default_factory=dict)


def test_build_fills_a_dataclass() -> None:
    values = {
        "name": "n",
        "rate": 2,
        "limit": 3,
        "steps": [4, 5],
        "inner": {"depth": 7},
        "options": {"x": [1]},
        "on": True,
    }
    table = build(Table, values, "t")
    assert table == Table(
        name="n",
        rate=2.0,
        limit=3.0,
        steps=(4, 5),
        inner=Inner(depth=7),
        options={"x": [1]},
        on=True,
    )
    assert type(table.rate) is float and type(table.limit) is float
    assert build(Table, {"name": 12, "limit": None}, "t") == Table(name="12")
    assert build(Table, dataclasses.asdict(table), "t") == table


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("dist:tau=1,beta=2", "dist:beta=2.0,tau=1", True),
        ("imagefolder:/data/train", " imagefolder:/data//train/ ", True),
        (
            "timm:resnet18,weights=runs/a.safetensors",
            "timm:resnet18,weights=./runs/../runs/a.safetensors",
            True,
        ),
        ('tars:"a,b"', 'tars:"a,b"', True),
        ("hf:lab/images", "hf:lab/other", False),
        ("timm:resnet18,drop=0.1", "timm:resnet18", False),
        ("a:x,n=1", "a:x,n=one", False),
    ],
)
def test_specs_that_spell_the_same_are_equal(one: str, other: str, is_same: bool) -> None:
    assert (normal_spec(one) == normal_spec(other)) is is_same


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "t needs name"),
        (
            {"name": "n", "sice": 3},
            r"unknown t key 'sice'; did you mean 'size'\? \(known: inner, kind, ",
        ),
        ({"name": "n", "zzz": 3}, r"unknown t key 'zzz' \(known"),
        ({"name": True}, "t name is true; it must be text"),
        ({"name": "n", "size": 1.0}, "t size is 1.0; it must be a whole number"),
        ({"name": "n", "size": True}, "t size is true; it must be a whole number"),
        ({"name": "n", "size": "3"}, "t size is '3'; it must be a whole number"),
        ({"name": "n", "rate": True}, "t rate is true; it must be a number"),
        ({"name": "n", "on": 1}, "t on is 1; it must be true or false"),
        ({"name": "n", "kind": "b"}, "unknown t kind 'b'; did you mean 'bb'"),
        ({"name": "n", "limit": "x"}, "t limit is 'x'; it must be a number"),
        ({"name": "n", "steps": 3}, "t steps is 3; it must be a list"),
        ({"name": "n", "steps": [1.5]}, "t steps is 1.5; it must be a whole number"),
        ({"name": "n", "inner": 3}, "t inner is 3, but has keys of its own; write depth=..."),
        ({"name": "n", "inner": {"deph": 3}}, "unknown t inner key 'deph'; did you mean 'depth'"),
        ({"name": "n", "rate": float("inf")}, "t rate is inf; it must be a finite number"),
        ({"name": "n", "limit": float("nan")}, "t limit is nan; it must be a finite number"),
        ({"name": "n", "rate": 10**400}, r"t rate has 401 digits; it must be a number below 2\^63"),
        ({"name": "n", "steps": [10**20]}, "t steps has 21 digits"),
        ({"name": "n", "options": {"a": [{"b": float("nan")}]}}, r"t options\.a\.b is nan"),
        ({"name": "n", "options": 3}, "t options is 3; it must be a table"),
    ],
)
def test_build_refuses(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(Table, values, "t")


def test_choose_lists_few_and_counts_many() -> None:
    assert choose("b", ["a", "b"], "letter") == "b"
    with pytest.raises(UsageError, match=r"unknown letter 'x' \(known: a, b\)"):
        choose("x", ["b", "a"], "letter")
    with pytest.raises(UsageError, match=r"unknown letter 'x' \(known: none\)"):
        choose("x", [], "letter")
    many = [f"detector_number_{number}_of_a_long_name" for number in range(25)]
    with pytest.raises(
        UsageError, match=r"'r_7_of' .*\(25 are known, all in a page; with 'r_7_of'"
    ):
        choose("r_7_of", many, "letter", all_in="a page")
    with pytest.raises(UsageError, match=r"'x' \(25 are known, all in a page\)$"):
        choose("x", many, "letter", all_in="a page")
    with pytest.raises(UsageError, match=r"did you mean 'name7'\? \(40 are known\)"):
        choose("nmae7", [f"name{number}" for number in range(40)], "letter")


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


def test_a_home_is_left_to_those_who_know_it() -> None:
    """Data sets of torchvision and Hugging Face put the home in themselves."""
    assert parse_spec("torchvision:CIFAR10,root=~/data").options["root"] == "~/data"
