"""Launchers' variables: a process's place, where a training's processes meet, and what is
refused."""

from typing import Any

import pytest
from processes import in_environment
from runs import dump, train

from kdcache.errors import UsageError
from kdcache.runtime.launch import Place, find_meeting, first_host, own_place, require_count

STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}
TORCHRUN = {
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, Place(0, 1, 0)),
        ({"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}, Place(9, 16, 1)),
        ({"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1"}, Place(9, 16, 1)),
        ({**STEP, "SLURM_NTASKS": "8"}, Place(1, 2, 1)),
        (
            {
                "RANK": "2",
                "WORLD_SIZE": "4",
                "LOCAL_RANK": "2",
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "1",
            },
            Place(2, 4, 2),
        ),
        (
            {
                "OMPI_COMM_WORLD_RANK": "3",
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                **STEP,
            },
            Place(3, 4, 1),
        ),
        ({"PMI_RANK": "5", "PMI_SIZE": "6", "MPI_LOCALRANKID": "2"}, Place(5, 6, 2)),
        ({"JOB_COMPLETION_INDEX": "5", "WORLD_SIZE": "8"}, Place(5, 8, 0)),
        ({"JOB_COMPLETION_INDEX": "5", "WORLD_SIZE": "1"}, Place(0, 1, 0)),
        ({**STEP, "WORLD_SIZE": "1"}, Place(0, 1, 0)),
    ],
)
def test_the_place_that_a_launcher_gives(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], place: Place
) -> None:
    in_environment(monkeypatch, **variables)
    assert own_place() == place
    require_count()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RANK": "one", "WORLD_SIZE": "2"},
            "^RANK=one, WORLD_SIZE=2, LOCAL_RANK=0 in the environment must be numbers; unset",
        ),
        (
            {"SLURM_PROCID": "2", "SLURM_NTASKS": "2"},
            "SLURM_PROCID=2, SLURM_NTASKS=2, .*the rank must be below the count",
        ),
    ],
)
def test_a_place_that_cannot_be_is_told(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    in_environment(monkeypatch, **variables)
    with pytest.raises(UsageError, match=message):
        own_place()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"JOB_COMPLETION_INDEX": "5"},
            (
                "JOB_COMPLETION_INDEX=5 .* not of how many; set WORLD_SIZE to their number"
                " .*WORLD_SIZE=1"
            ),
        ),
        ({"RANK": "1"}, "RANK=1 .*; set WORLD_SIZE to their number"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "set OMPI_COMM_WORLD_SIZE to their number"),
        (
            {"WORLD_SIZE": "4"},
            "WORLD_SIZE=4 .* not which this is; set RANK, from 0, or set WORLD_SIZE=1 to run alone",
        ),
    ],
)
def test_a_dump_that_does_not_know_its_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, variables: dict[str, str], message: str
) -> None:
    in_environment(monkeypatch, **variables)
    with pytest.raises(UsageError, match=message):
        dump(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node[01-04,07],other3", "node01"),
        ("gpu[7,9]", "gpu7"),
        ("rack[2-3]node[11-12].cluster", "rack2node11.cluster"),
        ("a,b[1-2]", "a"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_where_processes_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    in_environment(monkeypatch, **TORCHRUN)
    meeting = find_meeting()
    assert meeting is not None and meeting.place == Place(2, 4, 2)
    assert (meeting.address, meeting.port) == ("node1", 29500)
    in_environment(
        monkeypatch, **STEP, SLURM_STEP_NODELIST="node[3-4]", SLURM_JOB_ID="77", SLURM_STEP_ID="0"
    )
    meeting = find_meeting()
    assert meeting is not None and meeting.place == Place(1, 2, 1)
    assert meeting.address == "node3" and 10_000 <= meeting.port < 30_000
    in_environment(
        monkeypatch,
        **STEP,
        SLURM_JOB_NODELIST="a[1-2]",
        MASTER_ADDR="b",
        MASTER_PORT="123",
        WORLD_SIZE="2",
    )
    meeting = find_meeting()
    assert meeting is not None and (meeting.address, meeting.port) == ("b", 123)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {**STEP, "WORLD_SIZE": "1"},
        {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        {"JOB_COMPLETION_INDEX": "3", "WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
        {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_who_is_alone_trains_alone(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    in_environment(monkeypatch, **variables)
    assert find_meeting() is None


MPI_IN_SLURM = {**STEP, "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
            "SLURM_NTASKS=4 .*: each would train alone; put srun or torchrun before",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "4"},
            "WORLD_SIZE=4 .*start all processes with torchrun.*or set WORLD_SIZE=1 to run alone",
        ),
        ({"RANK": "1"}, "RANK=1 .* one of several"),
        ({"WORLD_SIZE": "4", "JOB_COMPLETION_INDEX": "1"}, "WORLD_SIZE=4"),
        (
            {"JOB_COMPLETION_INDEX": "0"},
            (
                "JOB_COMPLETION_INDEX=0 .*set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and"
                " MASTER_PORT"
            ),
        ),
        (
            {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
            "OMPI_COMM_WORLD_SIZE=2 .*in the place of mpirun",
        ),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, "PMI_SIZE=2"),
        (MPI_IN_SLURM, "OMPI_COMM_WORLD_SIZE=4"),
        (STEP, "SLURM_STEP_NODELIST does not name their first machine, .*; set MASTER_ADDR"),
        (
            {name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"},
            "MASTER_PORT is None; set it to a free port",
        ),
    ],
)
def test_a_training_that_cannot_join_the_others_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, variables: dict[str, str], message: str
) -> None:
    in_environment(monkeypatch, **variables)
    with pytest.raises(UsageError, match=message):
        train(tmp_path / "run", recipe="digits", loss="ce")
    assert not (tmp_path / "run").exists()
