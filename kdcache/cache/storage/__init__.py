"""Where objects lie: a folder or a bucket."""
