"""Repeats become one line, named by what sets it apart from others."""

from pathlib import Path

import pytest
from forged_runs import compared_runs, forged_run, rising

from kdcache.errors import UsageError
from kdcache.report.groups import Group, grouped, reference_of
from kdcache.report.names import MOST_CHARS, names_of
from kdcache.report.runs import read_runs
from kdcache.report.score_sections import common_settings


def groups_in(folder: Path) -> list[Group]:
    return grouped(read_runs([str(folder)]))


def test_runs_that_differ_in_the_run_seed_are_one_line(tmp_path: Path) -> None:
    groups = groups_in(compared_runs(tmp_path / "runs"))
    assert [(group.name, len(group.runs)) for group in groups] == [("ce", 3), ("dist:tau=4", 3)]
    assert [run.repeat for run in groups[0].runs] == [(0, 0), (1, 0), (2, 0)]
    assert groups[0].differing == {"loss": "ce"}


def test_settings_that_mean_the_same_are_the_same_however_they_are_spelt(tmp_path: Path) -> None:
    for seed, (loss, workers) in enumerate([("ce", 0), ("ce:ce=1", 3), ("ce:ce=1.0", 1)]):
        forged_run(
            tmp_path / str(seed), rising(50), loss=loss, run_seed=seed, log_steps=1 + workers
        )
    assert [len(group.runs) for group in groups_in(tmp_path)] == [3]


def test_settings_set_lines_apart_whatever_the_folders_are_called(tmp_path: Path) -> None:
    forged_run(tmp_path / "same-0", rising(50), label_smoothing=0.1)
    forged_run(tmp_path / "same-1", rising(50), label_smoothing=0.2, run_seed=1)
    names = [group.name for group in groups_in(tmp_path)]
    assert names == ["label_smoothing 0.1", "label_smoothing 0.2"]


def test_two_runs_of_one_seed_are_no_repeats(tmp_path: Path) -> None:
    forged_run(tmp_path / "a", rising(50))
    forged_run(tmp_path / "b", rising(50))
    with pytest.raises(UsageError, match="same settings and run seed, 0"):
        groups_in(tmp_path)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{"loss": "ce"}, {"loss": "kl:tau=4"}], ["ce", "kl:tau=4"]),
        (
            [{"loss": "kl:tau=4"}, {"loss": "dist:tau=4,beta=2,gamma=2"}],
            ["kl", "dist"],
        ),
        (
            [{"loss": "dist:tau=4,beta=2,gamma=2"}, {"loss": "dist:tau=1,beta=2,gamma=2"}],
            ["dist tau=4", "dist tau=1"],
        ),
        ([{"cache": "/big/caches/full"}, {"cache": "/big/caches/topk"}], ["full", "topk"]),
        ([{"cache": "/big/full"}, {"cache": "small/topk"}], ["/big/full", "small/topk"]),
        ([{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}], ["lr 0.1", "lr 0.2"]),
        ([{"clip_grad": None}, {"clip_grad": 1.0}], ["no clip_grad", "clip_grad 1.0"]),
        (
            [{"loss": "ce", "epochs": 5}, {"loss": "mse", "epochs": 9}],
            ["ce, epochs 5", "mse, epochs 9"],
        ),
    ],
)
def test_names_are_short_and_tell_what_differs(settings: list[dict], names: list[str]) -> None:
    assert names_of(settings) == names


def test_what_a_cache_brings_is_not_said_to_be_absent(tmp_path: Path) -> None:
    cached = {"cache": "caches/r50", "data": None, "recipe": None}
    forged_run(tmp_path / "a", rising(50), loss="dist:tau=4", **cached)
    forged_run(tmp_path / "b", rising(50))
    first, second = groups_in(tmp_path)
    assert first.name == "caches/r50, dist:tau=4"
    assert second.name == "no cache, digits:train, digits, ce"
    assert (first.differing["recipe"], first.differing["data"]) == ("that of the cache",) * 2
    (alone,) = grouped(first.runs)
    assert dict(common_settings([alone]))["recipe"] == "that of the cache"


def test_settings_in_the_middle_of_a_long_name_are_left_out_whole() -> None:
    first = {"cache": "none", "recipe": "street.toml", "epochs": 20, "batch_size": 8}
    last = {"student": "timm:resnet18", "loss": "ce", "optimizer.lr": 0.02}
    other = {"student": "timm:vit_tiny", "loss": "dist", "optimizer.lr": 0.1}
    settings = [{**first, **last}, {"cache": "r50", "recipe": "mine.toml", **other}]
    settings[1] |= {"epochs": 2, "batch_size": 16}
    names = names_of([{key: group[key] for key in settings[0]} for group in settings])
    assert names == [
        "no cache, street.toml, ..., ce, lr 0.02",
        "r50, mine.toml, epochs 2, ..., dist, lr 0.1",
    ]


def test_names_stay_apart_where_they_are_cut() -> None:
    long = "x" * 200
    names = names_of([{"student": f"{long}a{long}"}, {"student": f"{long}b{long}"}])
    assert len(set(names)) == 2 and max(map(len, names)) <= MOST_CHARS + 4


def test_others_are_compared_with_labels_alone_or_the_line_that_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    forged_run(folder / "a", rising(50), loss="dist:tau=4", cache="c", recipe=None)
    forged_run(folder / "b", rising(50), loss="ce", cache="c", recipe=None)
    forged_run(folder / "c", rising(50), loss="kl:tau=4", cache="c", recipe=None)
    groups = groups_in(folder)
    assert reference_of(groups, None).name == "ce"
    assert reference_of(groups, "kl:tau=4").name == "kl:tau=4"
    assert reference_of(groups, f"{folder}/a/").name == "dist:tau=4"
    assert reference_of([groups[0], groups[2]], None).name == "dist:tau=4"
    with pytest.raises(UsageError, match="did you mean 'kl:tau=4'"):
        reference_of(groups, "kl:tau=3")


def test_the_line_to_compare_with_is_named_by_any_path_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared_runs(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "runs" / "di-0")
    groups = groups_in(Path("runs"))
    for path in ("./runs/di-1", "runs/../runs/di-2/", str(tmp_path / "runs" / "di-0"), "link"):
        assert reference_of(groups, path).name == "dist:tau=4"


def test_a_curve_has_the_epochs_that_all_repeats_have(tmp_path: Path) -> None:
    forged_run(tmp_path / "a", rising(50))
    forged_run(tmp_path / "b", rising(60, num_epochs=5)[:3], run_seed=1, is_finished=False)
    (group,) = groups_in(tmp_path)
    curve = group.curve("top1")
    assert list(curve) == [1, 2, 3]
    assert curve[3].mean == pytest.approx((30 + 36) / 2)
    assert group.values("top1") == {(0, 0): 50.0}, "the other is not finished"


def test_what_is_no_number_in_metrics_is_left_out(tmp_path: Path) -> None:
    run = forged_run(tmp_path / "run", rising(50))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "step": 60, "epoch": 6, "top1": "high", "loss": NaN}\n')
        file.write('{"kind": "epoch", "step": 70, "epoch": 7, "top1": true, "eval_loss": 1')
    (read,) = read_runs([str(run)])
    assert read.epochs[6] == {} and 7 not in read.epochs
    assert read.parts == ["task"]


def test_a_line_is_meant_by_a_part_of_its_name_or_by_its_whole_settings(tmp_path: Path) -> None:
    """Names are short: `dist tau=4` is of dist:tau=4,beta=2,gamma=2."""
    losses = ("ce", "dist:tau=4,beta=2,gamma=2", "dist:tau=1,beta=2,gamma=2")
    for number, loss in enumerate(losses):
        forged_run(tmp_path / str(number), rising(50), loss=loss, cache="caches/full", recipe=None)
    groups = groups_in(tmp_path)
    for number, loss in enumerate(losses):
        for text in (loss, f"loss={loss}", groups[number].name, str(tmp_path / str(number))):
            assert reference_of(groups, text) is groups[number]
    assert reference_of(groups, "tau=4") is groups[1]
    with pytest.raises(
        UsageError, match=r"'dist' may be each of the lines dist .* and dist .*; giv"
    ):
        reference_of(groups, "dist")
    with pytest.raises(UsageError, match="unknown line to compare with 'kl'"):
        reference_of(groups, "kl")
