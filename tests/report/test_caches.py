"""What a page says of caches is what their commits say."""

from pathlib import Path

import pytest
from caches import manifest, records

from kdcache.cache import create_cache
from kdcache.cache.committing import commit_unit
from kdcache.cache.documents.parts import Absence
from kdcache.report.caches import cache_facts


def test_means_over_commits_leave_absent_views_out(tmp_path: Path) -> None:
    cache = create_cache(tmp_path / "cache", manifest(skip_unreadable=True))
    confidences = (0.5, 0.8)
    rows_absent = (6, 0)  # of 8 rows each
    for unit, (confidence, num_absent) in enumerate(zip(confidences, rows_absent, strict=True)):
        absent = [Absence(row=8 * unit + row, reason="no image") for row in range(num_absent)]
        statistics = {"confidence": confidence}
        commit_unit(cache, 0, unit, records(cache, 0, unit), absent=absent, statistics=statistics)
    facts = cache_facts(str(tmp_path / "cache"))
    assert not facts.problem
    assert facts.statistics["confidence"] == pytest.approx((2 * 0.5 + 8 * 0.8) / 10)
