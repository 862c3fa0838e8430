"""The names of the files of a run."""

CONFIG_FILE = "config.toml"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
CHECKPOINT_FILE = "last.pt"
STUDENT_FILE = "student.safetensors"
BEST_FILE = "best.safetensors"
