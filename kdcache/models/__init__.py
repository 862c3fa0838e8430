"""Models: opened by a spec, with their preprocessing and weights; and how they are run."""
