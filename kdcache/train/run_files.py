"""The names of the files of a run, and of the command that makes it."""

from kdcache.models.run_folders import BEST_FILE, COMMAND, CONFIG_FILE, STUDENT_FILE

__all__ = [
    "BEST_FILE",
    "CHECKPOINT_FILE",
    "COMMAND",
    "CONFIG_FILE",
    "METRICS_FILE",
    "RESULT_FILE",
    "STUDENT_FILE",
]

METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
CHECKPOINT_FILE = "last.pt"
