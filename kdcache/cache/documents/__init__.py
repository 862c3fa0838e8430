"""The documents of a cache: manifest, commits, extents, and what they may say."""
