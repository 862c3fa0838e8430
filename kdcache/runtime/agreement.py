"""What processes that work together must agree on.

They may read other files, or have been started otherwise, and nothing would tell: gradients of
processes that disagree are averaged all the same.
"""

from collections.abc import Mapping

from kdcache.errors import MismatchError
from kdcache.runtime.contrast import contrasted
from kdcache.runtime.distributed import gather, host_name, is_main, world_size

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
                its_part, first_part = contrasted(str(other), str(first))
                reason = f"another {name}: {its_part} there, {first_part} in rank 0 on {first_host}"
                raise disagreement(reason, number, host, way_out=way_out)


def disagreement(reason: str, number: int, host: str, *, way_out: str = _WAY_OUT) -> MismatchError:
    """Return the error of process `number`, which rank 0 alone tells the user."""
    error = MismatchError(f"rank {number} on {host} has {reason}; {way_out}")
    error.is_told_elsewhere = not is_main()
    return error
