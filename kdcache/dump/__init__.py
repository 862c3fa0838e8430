"""The dump: a teacher run once over every view that is missing."""
