"""Units checked against their commits, side by side, and the report from which a check that was
killed goes on."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from kdcache.cache import Cache
from kdcache.cache.formats.protocol import Unit
from kdcache.cache.inventory import Inventory
from kdcache.cache.prefetch import fetched
from kdcache.errors import CacheError, KdcacheError, MismatchError
from kdcache.runtime.console import progress
from kdcache.runtime.files import plain_bytes
from kdcache.runtime.stopping import heeding, look, until_stopped


class Check(NamedTuple):
    """What was found of a unit."""

    seed: int
    """The first of its seeds."""
    unit: int
    commit: str
    """Digest of its commit; empty if that cannot be read."""
    bytes: int
    absent: int
    fault: str | None


class CheckReport:
    """A file of JSON lines: what it is a report of, then one unit each. Without a path it keeps
    nothing."""

    def __init__(self, cache: Cache, path: str | Path | None) -> None:
        """Read what is in `path`, and go on after it.

        Raises:
            MismatchError: it is the report of another cache.
            KdcacheError: it cannot be read or written.
        """
        self._path = Path(path) if path is not None else None
        self.checked: dict[Unit, Check] = {}
        if self._path is None:
            return
        text = self._read()
        head = {"cache": str(cache), "manifest": cache.manifest.digest}
        # the last one may have been cut off
        lines = [line for part in text.splitlines() if (line := _parsed(part))]
        try:
            if text and lines[0]["manifest"] != head["manifest"]:
                raise ValueError
            checks = [Check(**line) for line in lines[1:]]
        except (ValueError, LookupError, TypeError):
            raise MismatchError(
                f"{path} is no report on cache {cache}; choose a new file"
            ) from None
        self.checked = {(check.seed, check.unit): check for check in checks}
        self._append(
            ("" if text.endswith("\n") or not text else "\n")
            + ("" if text else json.dumps(head) + "\n")
        )

    @property
    def is_kept(self) -> bool:
        """Whether there is a file."""
        return self._path is not None

    def holds(self, check: Check) -> bool:
        """Return whether a check is one that the report held when it was opened."""
        return check is self.checked.get((check.seed, check.unit))

    def write(self, check: Check) -> None:
        """Append a unit."""
        self._append(json.dumps(check._asdict()) + "\n")

    def _read(self) -> str:
        assert self._path is not None
        try:
            return plain_bytes(self._path).decode() if self._path.exists() else ""
        except (OSError, ValueError) as error:
            raise KdcacheError(
                f"cannot read report {self._path}: {error}; choose a new file"
            ) from error

    def _append(self, text: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise KdcacheError(
                f"cannot write report {self._path}: {error.strerror}; choose another file"
            ) from error


def check_units(
    cache: Cache, inventory: Inventory, report: CheckReport
) -> tuple[dict[str, int], list[str]]:
    """Check every committed unit; return `units`, `from_report`, `bytes` and `absent` rows, and the
    faults.

    Raises:
        StoppedError: a signal told the process to stop; what was checked is in the report.
    """
    checks: list[Check] = []

    def kept() -> str:
        return f": the report has {len(checks)} of {len(inventory.commits)} units"

    # without a report nothing is kept, and a signal ends it at once
    with heeding(kept) if report.is_kept else nullcontext():
        checks += _checked_units(cache, inventory, report)
        look()
    counts = {
        "units": len(checks),
        "from_report": sum(report.holds(check) for check in checks),
        "bytes": sum(check.bytes for check in checks),
        "absent": sum(check.absent for check in checks),
    }
    return counts, [check.fault for check in checks if check.fault is not None]


def _checked_units(cache: Cache, inventory: Inventory, report: CheckReport) -> list[Check]:
    """Return what is found of each unit, until the process is told to stop; the report gets what is
    new."""
    units = list(inventory.commits)
    largest = (
        max((entry.size for entry in inventory.objects.values()), default=0)
        + cache.manifest.unit_bytes
    )
    checks = []
    with progress("verify", len(units), "units") as bar:

        def checked(unit: Unit) -> Check:
            return _checked(cache, unit, inventory, report)

        for check in fetched(checked, until_stopped(units), num_bytes=largest):
            if not report.holds(check):
                report.write(check)
            checks.append(check)
            bar.advance(1)
    return checks


def _checked(cache: Cache, unit: Unit, inventory: Inventory, report: CheckReport) -> Check:
    """Return what is found of a unit, or what the report says of it if commit and size of the
    object are those of then."""
    known = report.checked.get(unit)
    there = inventory.objects.get(unit)
    digest = ""
    try:
        commit = cache.whole_commit(*unit)
        digest = commit.digest
        if (
            known
            and there
            and (known.commit, known.bytes, known.fault) == (digest, there.size, None)
        ):
            return known
        cache.read_unit(commit)
    except CacheError as error:
        return Check(*unit, digest, 0, 0, str(error))
    return Check(*unit, digest, commit.num_bytes, len(commit.absent), None)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
