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
        self._path: Path | None = None
        self.checks: dict[Unit, Check] = {}
        if path is None:
            return
        self._path = Path(path)
        text = self._text(self._path)
        if not text:
            head = {"cache": str(cache), "manifest": cache.manifest.digest}
            self._append(json.dumps(head) + "\n")
            return
        try:
            checks = _checks_in(text, cache)
        except (ValueError, LookupError, TypeError):
            raise MismatchError(
                f"{path} is no report on cache {cache}; choose a new file"
            ) from None
        for check in checks:
            self.checks[check.seed, check.unit] = check
        self._append("" if text.endswith("\n") else "\n")

    @property
    def is_kept(self) -> bool:
        """Whether there is a file."""
        return self._path is not None

    def holds(self, check: Check) -> bool:
        """Return whether a check is one that the report held when it was opened."""
        return check is self.checks.get((check.seed, check.unit))

    def write(self, check: Check) -> None:
        """Append a unit."""
        self._append(json.dumps(check._asdict()) + "\n")

    @staticmethod
    def _text(path: Path) -> str:
        """Return what is in the file; nothing if there is none."""
        try:
            if not path.exists():
                return ""
            return plain_bytes(path).decode()
        except (OSError, ValueError) as error:
            raise KdcacheError(f"cannot read report {path}: {error}; choose a new file") from error

    def _append(self, text: str) -> None:
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise KdcacheError(
                f"cannot write report {self._path}: {error.strerror}; choose another file, or"
                " make room and run again"
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

    def progress_text() -> str:
        return f": the report has {len(checks)} of {len(inventory.commits)} units"

    # without a report nothing is kept, and a signal ends it at once
    with heeding(progress_text) if report.is_kept else nullcontext():
        checks += _checked_units(cache, inventory, report)
        look()
    counts = {"units": len(checks), "from_report": 0, "bytes": 0, "absent": 0}
    faults: list[str] = []
    for check in checks:
        counts["from_report"] += report.holds(check)
        counts["bytes"] += check.bytes
        counts["absent"] += check.absent
        if check.fault is not None:
            faults.append(check.fault)
    return counts, faults


def _checked_units(cache: Cache, inventory: Inventory, report: CheckReport) -> list[Check]:
    """Return what is found of each unit, until the process is told to stop; the report gets what is
    new."""
    units = list(inventory.commits)
    sizes = [entry.size for entry in inventory.objects.values()]
    most_bytes = max(sizes, default=0) + cache.manifest.unit_bytes
    checks = []
    with progress("verify", len(units), "units") as bar:

        def checked(unit: Unit) -> Check:
            return _checked(cache, unit, inventory, report)

        for check in fetched(checked, until_stopped(units), num_bytes=most_bytes):
            if not report.holds(check):
                report.write(check)
            checks.append(check)
            bar.advance(1)
    return checks


def _checked(cache: Cache, unit: Unit, inventory: Inventory, report: CheckReport) -> Check:
    """Return what is found of a unit, or what the report says of it if commit and size of the
    object are those of then."""
    last_check = report.checks.get(unit)
    entry = inventory.objects.get(unit)
    digest = ""
    try:
        commit = cache.whole_commit(*unit)
        digest = commit.digest
        if last_check is not None and entry is not None:
            is_same = last_check.commit == digest and last_check.bytes == entry.size
            if is_same and last_check.fault is None:
                return last_check
        cache.read_unit(commit)
    except CacheError as error:
        return Check(*unit, digest, 0, 0, str(error))
    return Check(*unit, digest, commit.num_bytes, len(commit.absent), None)


def _checks_in(text: str, cache: Cache) -> list[Check]:
    """Return what a report says of each unit.

    Raises:
        ValueError, LookupError, TypeError: it is no report on `cache`.
    """
    head, *lines = _parsed_lines(text)
    if head["manifest"] != cache.manifest.digest:
        raise ValueError
    return [Check(**line) for line in lines]


def _parsed_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects in the lines of a text; the last one may have been cut off."""
    lines: list[dict[str, Any]] = []
    for part in text.splitlines():
        try:
            line = json.loads(part)
        except ValueError:
            continue
        if line and isinstance(line, dict):
            lines.append(line)
    return lines
