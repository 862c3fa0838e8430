"""Reading a cache in training: views, targets and soft targets of each step."""
