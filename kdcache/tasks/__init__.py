"""Tasks: where the class logits are, how targets follow a view, how to score."""

from typing import TYPE_CHECKING

from kdcache.deferred import door

if TYPE_CHECKING:
    from kdcache.tasks.protocol import Score, Task
    from kdcache.tasks.registry import open_task

__getattr__ = door(
    "kdcache.tasks",
    {
        "Score": "protocol",
        "Task": "protocol",
        "open_task": "registry",
    },
)

__all__ = ["Score", "Task", "open_task"]
