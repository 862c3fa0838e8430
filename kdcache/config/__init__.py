"""Configuration: the grammar of specs, and files of settings read into frozen dataclasses."""
