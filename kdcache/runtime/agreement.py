"""What processes that work together must agree on.

They may read other files, or have been started otherwise, and nothing would tell: gradients of
processes that disagree are averaged all the same.
"""

from collections.abc import Mapping

from kdcache.errors import MismatchError
from kdcache.runtime.distributed import gather, host_name, is_main, world_size

_LONGEST_VALUE = 80
_WAY_OUT = "start all processes with the same command, on the same data and versions"


def require_same(facts: Mapping[str, str], what: str, *, way_out: str = _WAY_OUT) -> None:
    """Check that each of `facts` is the same in all processes.

    Args:
        facts: texts by name.
        what: that the processes say they wait for.
        way_out: the end of the message.

    Raises:
        MismatchError: one is not, in every process; the message names it, the rank and the machine.
    """
    if world_size() == 1:
        return
    reports = gather((host_name(), dict(facts)), what)
    first_host, first_facts = reports[0]
    for number, (host, other_facts) in enumerate(reports):
        for name in dict.fromkeys([*first_facts, *other_facts]):
            first = first_facts.get(name)
            other = other_facts.get(name)
            if first != other:
                its_part, first_part = _differing_parts(str(other), str(first))
                reason = f"another {name}: {its_part} there, {first_part} in rank 0 on {first_host}"
                raise disagreement(reason, number, host, way_out=way_out)


def disagreement(reason: str, number: int, host: str, *, way_out: str = _WAY_OUT) -> MismatchError:
    """Return the error of process `number`, which rank 0 alone tells the user."""
    error = MismatchError(f"rank {number} on {host} has {reason}; {way_out}")
    error.is_told_elsewhere = not is_main()
    return error


def _differing_parts(first: str, second: str) -> tuple[str, str]:
    """Return two texts, of long ones what stands about the first difference."""
    if max(len(first), len(second)) <= _LONGEST_VALUE:
        return first, second
    start = max(_first_difference(first, second) - _LONGEST_VALUE // 4, 0)
    stop = start + _LONGEST_VALUE
    return f"...{first[start:stop]}...", f"...{second[start:stop]}..."


def _first_difference(first: str, second: str) -> int:
    """Return the first place at which two texts differ, which may be the end of one."""
    shorter = min(len(first), len(second))
    for place in range(shorter):
        if first[place] != second[place]:
            return place
    return shorter
