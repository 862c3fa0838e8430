"""The workers of a dump: how fast each is, when it was last seen, and whether it counts as lost."""

import pytest

from kdcache.dump.worker_status import Seen, Worker, rate_of, workers_of

NOW = 100_000.0


def commits(name: str, *ago: float, views: int = 64) -> list[Seen]:
    return [Seen(name, NOW - seconds, views) for seconds in ago]


def one(found: list[Seen], name: str) -> Worker:
    (worker,) = [worker for worker in workers_of(found, NOW) if worker.name == name]
    return worker


def test_pace_and_views_are_those_of_the_last_units() -> None:
    slow_start = commits("n7:4242:0123abcd:3", 3000, 2000, *range(500, -1, -50))
    worker = one(slow_start, "n7:4242:0123abcd:3")
    assert (
        worker.pace == 50 and worker.units_per_minute == 1.2 and worker.views_per_second == 64 / 50
    )
    assert (worker.units, worker.last_seen, worker.is_lost) == (13, 0, False)
    assert worker.to_json() == {
        "name": "n7:4242:0123abcd:3",
        "host": "n7",
        "process": 4242,
        "rank": 3,
        "units": 13,
        "units_per_minute": 1.2,
        "views_per_second": 1.28,
        "last_seen_seconds": 0,
        "is_lost": False,
    }


@pytest.mark.parametrize(
    ("ago", "is_lost"),
    [
        ((300, 240, 180, 120), False),
        ((400, 340, 280, 220), True),
        ((4.0, 3.0, 2.0), False),
        ((64.0, 63.0, 62.0), True),
        ((59.0, 58.0, 57.0), False),
        ((6000, 4200, 2400), False),
        ((9000, 7200, 5500), True),
    ],
)
def test_a_worker_is_lost_when_it_is_silent_for_clearly_longer_than_its_own_pace(
    ago: tuple[float, ...], is_lost: bool
) -> None:
    assert one(commits("a:1", *ago), "a:1").is_lost is is_lost


def test_of_a_worker_with_one_unit_the_others_pace_tells() -> None:
    others = commits("a:1", 130, 70, 10)
    assert not one(others + commits("b:2", 170), "b:2").is_lost
    assert one(others + commits("b:2", 190), "b:2").is_lost, "three times their minute"
    alone = one(commits("b:2", 590), "b:2")
    assert (
        not alone.is_lost and alone.pace is alone.units_per_minute is alone.views_per_second is None
    )
    assert one(commits("b:2", 610), "b:2").is_lost
    assert one(commits("b:2", 30, 30), "b:2").pace is None, "a bucket tells whole seconds"


def test_nobody_is_waited_for_when_all_is_there() -> None:
    (worker,) = workers_of(commits("a:1", 900, 800), NOW, is_complete=True)
    assert not worker.is_lost


def test_workers_come_by_rank_and_are_forgotten_in_the_end() -> None:
    found = (
        commits("b:9", 5)
        + commits("c:1:0123abcd:10", 5)
        + commits("a:1:0123abcd:2", 5)
        + commits("", 5)
    )
    found += commits("gone:1", 3800, 3700) + commits("slow:1", 9000, 5000)
    assert [worker.name for worker in workers_of(found, NOW)] == [
        "a:1:0123abcd:2",
        "c:1:0123abcd:10",
        "",
        "b:9",
        "slow:1",
    ]


def test_a_storage_whose_clock_is_ahead_shows_nobody_in_the_future() -> None:
    assert one(commits("a:1", -40, -100), "a:1").last_seen == 0


def test_the_rate_is_that_of_late() -> None:
    def times(*ago: float) -> list[float]:
        return [NOW - seconds for seconds in ago]

    assert rate_of([], NOW) == 0 and rate_of(times(5), NOW) == 0
    assert rate_of(times(20, 10, 0), NOW) == pytest.approx(0.1), (
        "two after the first, in 20 seconds"
    )
    assert rate_of(times(*range(0, 6000, 60)), NOW) == pytest.approx(1 / 60, rel=0.01)
    assert rate_of(times(*range(0, 60_000, 1200)), NOW) == pytest.approx(1 / 1200), (
        "of slow units the last ten"
    )
