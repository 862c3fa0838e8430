import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kdcache.cache.documents.sealed import digest, seal, unseal

names = st.text(max_size=5).filter(lambda name: name != "digest")
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
documents = st.dictionaries(names, values, min_size=1, max_size=5)


@given(documents)
def test_a_sealed_document_comes_back_through_json(content: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(seal(content), indent=1))
    assert unseal(stored) == content
    assert unseal(dict(reversed(stored.items()))) == content, "the order of keys means nothing"


@given(documents, st.data())
def test_any_changed_value_raises(content: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(content)))
    other = data.draw(values)
    assume(json.dumps(other, sort_keys=True) != json.dumps(content[name], sort_keys=True))
    with pytest.raises(ValueError, match="digest"):
        unseal({**seal(content), name: other})


@given(documents, names, values)
def test_an_added_or_dropped_key_raises(content: dict[str, Any], name: str, value: Any) -> None:
    sealed = seal(content)
    if name not in content:
        with pytest.raises(ValueError, match="does not match"):
            unseal({**sealed, name: value})
    for key in sealed:
        with pytest.raises(ValueError, match="digest"):
            unseal({other: sealed[other] for other in sealed if other != key})


@pytest.mark.parametrize(
    "document", [None, [], "text", 3, {}, {"a": 1}, {"a": 1, "digest": None}, {"digest": "0" * 64}]
)
def test_what_is_no_sealed_document_raises(document: Any) -> None:
    with pytest.raises(ValueError, match="digest"):
        unseal(document)


def test_the_digest_is_sha256_of_canonical_json() -> None:
    import hashlib

    text = '{"a":[1,2.5,null,true],"b":{"c":"\\u00e9","d":-0.0}}'
    assert (
        digest({"b": {"d": -0.0, "c": "\u00e9"}, "a": [1, 2.5, None, True]})
        == hashlib.sha256(text.encode()).hexdigest()
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})
