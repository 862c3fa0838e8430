"""Tasks: where the class logits are, how targets follow a view, how to score."""
