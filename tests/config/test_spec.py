"""The grammar of specs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.config.spec import Spec, normal_spec, parse_spec
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


def test_a_home_is_left_to_those_who_know_it() -> None:
    """Data sets of torchvision and Hugging Face put the home in themselves."""
    assert parse_spec("torchvision:CIFAR10,root=~/data").options["root"] == "~/data"
