"""Training a student: a run in a folder, its steps, its evaluation, its checkpoints."""
