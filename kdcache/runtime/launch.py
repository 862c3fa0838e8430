"""What a launcher's variables say: this process's place among others, and where all of them meet.

torch is not imported here: commands that only print need none of it.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kdcache.errors import UsageError

PLACES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, or set by hand
    # before Slurm's: under mpirun a job's own variables are those of whatever started its daemons
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    # Kubernetes tells the index; the count is set in the job
    ("JOB_COMPLETION_INDEX", "WORLD_SIZE", "LOCAL_RANK"),
)
"""Variables of rank, number of processes, rank on the machine; the first pair that is set
counts."""
ALONE = "WORLD_SIZE=1"
_ALONE_WAY = f"set {ALONE} to run alone"
_FIRST_PORT = 10_000
_NUM_PORTS = 20_000  # below those that systems give out by themselves
_STEPS_PER_JOB = 64
_MOST_QUOTED = 20


@dataclass(frozen=True)
class Place:
    """A process's place among those that were started with it, joined or not."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Its number on its machine."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where the processes of one training meet."""

    place: Place
    address: str
    port: int
    is_held: bool
    """Whether the launcher itself waits at the address; if not, rank 0 does."""
    shares_number: bool
    """Whether each process may see its own GPU only, as number 0."""


def own_place() -> Place:
    """Return this process's place among those that a launcher started; (0, 1, 0) without one.

    Raises:
        UsageError: variables in the environment that are no numbers, or a rank that is not below
            the number of processes.
    """
    variables = os.environ
    if _is_alone(variables):
        return Place()
    for rank, count, local_rank in PLACES:
        if rank in variables and count in variables:
            local_number = variables.get(local_rank) or "0"
            numbers = {
                rank: variables[rank],
                count: variables[count],
                local_rank: local_number,
            }
            return _checked_place(numbers)
    return Place()


def require_count() -> None:
    """Refuse a rank among nobody knows how many: each would take itself for the only process.

    Raises:
        UsageError: there is a variable of a rank, and none that says of how many.
    """
    variables = os.environ
    if _is_alone(variables) or _says_place(variables):
        return
    for rank, count, _ in PLACES:
        # a batch script of one task has SLURM_PROCID too
        if rank in variables and rank != "SLURM_PROCID":
            raise UsageError(
                f"{_quoted(variables, rank)} says that this is one of several "
                f"processes, and not of how many; set {count} to their number (of a Kubernetes job "
                f"its completions), or {_ALONE_WAY}"
            )
    if variables.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            f"{_quoted(variables, 'WORLD_SIZE')} says that there are several "
            f"processes, and not which this is; set RANK, from 0, or {_ALONE_WAY}"
        )


def find_meeting() -> Meeting | None:
    """Return where this process joins the others of its training, or None if it trains alone.

    Raises:
        UsageError: there are others, as some variable says, and nothing says how to join them.
    """
    variables = os.environ
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= variables.keys():
        return _of_variables(own_place(), variables["MASTER_ADDR"], variables.get("MASTER_PORT"))
    if _is_alone(variables):
        return None
    if variables.get("SLURM_STEP_NUM_TASKS") == "1" and own_place().world_size == 1:
        return None
    if _is_slurm_step(variables):
        return _of_slurm(variables)
    _refuse_lone(variables)
    return None


def _is_alone(variables: Mapping[str, str]) -> bool:
    return variables.get("WORLD_SIZE") == "1" and variables.get("RANK", "0") == "0"


def _says_place(variables: Mapping[str, str]) -> bool:
    """Return whether a launcher says which this process is, and of how many."""
    return any(rank in variables and count in variables for rank, count, _ in PLACES)


def _quoted(variables: Mapping[str, str], name: str) -> str:
    """Return how a message names a variable; its value may be of any length."""
    return f"{name}={variables[name][:_MOST_QUOTED]} in the environment"


def _checked_place(variables: Mapping[str, str]) -> Place:
    """Return the place that the variables of rank, count and rank on the machine say."""
    texts = [f"{name}={value[:_MOST_QUOTED]}" for name, value in variables.items()]
    text = ", ".join(texts)
    way_out = "unset them to run alone"
    try:
        place = Place(*map(int, variables.values()))
    except ValueError:
        raise UsageError(f"{text} in the environment must be numbers; {way_out}") from None
    if not 0 <= place.rank < place.world_size:
        reason = "the rank must be below the count"
        raise UsageError(f"{text} in the environment: {reason}; {way_out}")
    return place


def _of_variables(place: Place, address: str, port: str | None) -> Meeting:
    if port is None or not port.isdecimal():
        raise UsageError(
            f"MASTER_ADDR is set, and MASTER_PORT is {port!r}; set it to a free port of that "
            "machine, or start all processes with torchrun"
        )
    is_held = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    return Meeting(
        place=place,
        address=address,
        port=int(port),
        is_held=is_held,
        shares_number=False,
    )


def _is_slurm_step(variables: Mapping[str, str]) -> bool:
    """Return whether srun started this very process, not a daemon of mpirun above it."""
    rank, count, _ = PLACES[3]
    if rank not in variables or variables.get(count, "1") == "1":
        return False
    place = own_place()
    return str(place.rank) == variables[rank] and str(place.world_size) == variables[count]


def _of_slurm(variables: Mapping[str, str]) -> Meeting:
    hosts = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST") or ""
    address = variables.get("MASTER_ADDR") or first_host(hosts)
    if not address:
        raise UsageError(
            "srun started several tasks, and SLURM_STEP_NODELIST does not name their first machine,"
            " by which they would meet; set MASTER_ADDR to it"
        )
    port = variables.get("MASTER_PORT") or str(_slurm_port(variables))
    meeting = _of_variables(own_place(), address, port)
    return replace(meeting, is_held=False, shares_number=True)


def _slurm_port(variables: Mapping[str, str]) -> int:
    """Return a port that all tasks of a step know, and other steps most likely do not take."""
    job = _number_in(variables.get("SLURM_JOB_ID", "0"))
    step = _number_in(variables.get("SLURM_STEP_ID", "0"))
    return _FIRST_PORT + (job * _STEPS_PER_JOB + step) % _NUM_PORTS


def _number_in(text: str) -> int:
    """Return the number that a text spells, 0 if it spells none."""
    if not text.isdecimal():
        return 0
    return int(text)


def first_host(hosts: str) -> str:
    """Return the first name of a list as Slurm writes it: `node01` of `node[01-04,07],other3`."""
    name = ""
    rest = hosts
    while rest and rest[0] != ",":
        if rest[0] != "[":
            name = name + rest[0]
            rest = rest[1:]
            continue
        numbers, _, rest = rest[1:].partition("]")
        name += re.split("[-,]", numbers, maxsplit=1)[0]
    return name


def _refuse_lone(variables: Mapping[str, str]) -> None:
    """Refuse to train alone where a launcher has started others: each would do the same."""
    joining = "set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each process"
    mpi = f"start them with torchrun or srun in the place of mpirun, or {joining}"
    ways = {
        "WORLD_SIZE": f"start all processes with torchrun, or {joining}",
        "RANK": f"start all processes with torchrun, or {joining}",
        "OMPI_COMM_WORLD_SIZE": mpi,
        "PMI_SIZE": mpi,
        "SLURM_STEP_NUM_TASKS": f"start one process a task with srun, or torchrun; or {joining}",
        "SLURM_NTASKS": "put srun or torchrun before the command",
        "JOB_COMPLETION_INDEX": joining,
    }
    for name, way_out in ways.items():
        is_rank = name in ("RANK", "JOB_COMPLETION_INDEX")
        if name not in variables or (not is_rank and variables[name] in ("0", "1")):
            continue
        raise UsageError(
            f"{_quoted(variables, name)} says that this process is one of several,"
            f" and nothing tells how to join them: each would train alone; {way_out}; or"
            f" {_ALONE_WAY}"
        )
