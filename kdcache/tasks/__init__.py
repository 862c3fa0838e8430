"""Tasks: where the class logits are, how targets follow a view, how to score."""

from kdcache.tasks.protocol import Score, Task
from kdcache.tasks.registry import open_task

__all__ = ["Score", "Task", "open_task"]
