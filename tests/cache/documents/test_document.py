import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kdcache.cache.documents.document import checked_content, digest, with_digest

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
    stored = json.loads(json.dumps(with_digest(content), indent=1))
    assert checked_content(stored) == content
    assert checked_content(dict(reversed(stored.items()))) == content, (
        "the order of keys means nothing"
    )


@given(documents, st.data())
def test_any_changed_value_raises(content: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(content)))
    other = data.draw(values)
    assume(json.dumps(other, sort_keys=True) != json.dumps(content[name], sort_keys=True))
    with pytest.raises(ValueError, match="digest"):
        checked_content({**with_digest(content), name: other})


@given(documents, names, values)
def test_an_added_or_dropped_key_raises(content: dict[str, Any], name: str, value: Any) -> None:
    document = with_digest(content)
    if name not in content:
        with pytest.raises(ValueError, match="does not match"):
            checked_content({**document, name: value})
    for key in document:
        with pytest.raises(ValueError, match="digest"):
            checked_content({other: document[other] for other in document if other != key})


@pytest.mark.parametrize(
    "document", [None, [], "text", 3, {}, {"a": 1}, {"a": 1, "digest": None}, {"digest": "0" * 64}]
)
def test_what_is_no_sealed_document_raises(document: Any) -> None:
    with pytest.raises(ValueError, match="digest"):
        checked_content(document)


def test_the_digest_is_sha256_of_canonical_json() -> None:
    import hashlib

    text = '{"a":[1,2.5,null,true],"b":{"c":"\\u00e9","d":-0.0}}'
    assert (
        digest({"b": {"d": -0.0, "c": "\u00e9"}, "a": [1, 2.5, None, True]})
        == hashlib.sha256(text.encode()).hexdigest()
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": float("nan")})
