"""The quickstart: the main job on scikit-learn's handwritten digits, each step a command of its own in a process of its own."""


def run_quickstart(out: str, *, as_json: bool) -> None:
    """Run it."""
    raise NotImplementedError
