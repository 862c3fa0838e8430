"""Soft targets: decoded logits of a teacher, as losses see them."""
