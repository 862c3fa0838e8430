"""Verification of a cache: its bytes, its views, its logits."""
