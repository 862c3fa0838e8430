"""A task whose logits lie as those of detectors do."""

import re
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def boxed_task() -> Iterator[str]:
    """Register the task, and say its name."""
    from layouts import BoxedLabel

    from kdcache.cache.documents import limits
    from kdcache.targets import KINDS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(KINDS, BoxedLabel.task, BoxedLabel())
        patch.setattr(limits, "TASKS", tuple(KINDS))
        patch.setitem(limits._MANIFEST, "task", re.compile("|".join(KINDS)))
        yield BoxedLabel.task
