"""The lines that `kdcache evaluate` prints."""

from kdcache_cli.evaluate import _class_lines


def test_classes_of_one_score_stand_in_their_order() -> None:
    scores = {f"ap/{name}": float(name == "2") for name in ("2", "9", "10", "11")}
    names = [line.split()[-1] for _, line in _class_lines(scores)]
    assert names == ["9", "10", "11", "2"]
