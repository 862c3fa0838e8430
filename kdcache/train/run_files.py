"""The names of the files of a run, and of the command that makes it."""

CONFIG_FILE = "config.toml"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
CHECKPOINT_FILE = "last.pt"
STUDENT_FILE = "student.safetensors"
BEST_FILE = "best.safetensors"
COMMAND = "train-student"
