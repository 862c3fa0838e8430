"""Codec error: what a codec costs in bytes, and in the gradient that a student gets."""
