"""Two values in a message: short, and never alike where the values are not."""

from hypothesis import given
from hypothesis import strategies as st

from kdcache.errors import shortened
from kdcache.runtime.contrast import MOST_CHARS, contrasted, joined

LONG = st.text("ab", min_size=40, max_size=200)


@given(LONG, st.text("ab", max_size=80), st.text("ab", max_size=80))
def test_texts_that_differ_look_different_however_long_they_are(
    start: str,
    one: str,
    other: str,
) -> None:
    shown = contrasted(start + one, start + other)
    assert (shown[0] == shown[1]) == (one == other)
    assert one == other or max(map(len, shown)) <= MOST_CHARS


def test_a_long_text_is_shown_from_near_the_difference() -> None:
    start = "imagefolder:/data/train," * 20
    one, other = contrasted(f"{start}width=2,depth=3", f"{start}width=4,depth=3")
    assert one == "...ta/train,width=2,depth=3" and other == "...ta/train,width=4,depth=3"


def test_short_texts_stay_as_they_are_and_digests_are_cut() -> None:
    assert contrasted("7", "9") == ("7", "9")
    assert contrasted("a" * 64, "b" * 64) == ("a" * 12 + "...", "b" * 12 + "...")
    alike = contrasted("a" * 63 + "b", "a" * 64)
    assert alike[0] != alike[1], "digests with one beginning, as nobody meets them"


def test_a_name_loses_its_middle() -> None:
    assert shortened("short", MOST_CHARS) == "short"
    assert shortened("class/" + "x" * 100 + ".png", 20) == "class/xxx...xxxx.png"


def test_lines_that_have_no_room_are_counted() -> None:
    assert joined(["one", "two"]) == "one; two"
    assert joined(["x" * 10] * 5, most=30) == "xxxxxxxxxx; xxxxxxxxxx; and 3 more"
    assert joined(["y" * 1000], most=30) == shortened("y" * 1000, 30), "one line is always there"
