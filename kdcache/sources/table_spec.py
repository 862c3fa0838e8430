"""What the spec of a table says, and how messages name its lines."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TableSpec:
    """What the spec of a table says."""

    kind: str
    """The name of the source: `csv` or `parquet`."""
    path: str
    """Of the table."""
    image: str
    """The column of the paths."""
    label: str
    """The column of the labels."""
    root: str
    """The folder of the images."""
    num_classes: int | None
    class_names: tuple[str, ...] | None

    @property
    def columns(self) -> tuple[str, str]:
        """The names of the columns that are read."""
        return self.image, self.label

    def place(self, line: int) -> str:
        """Return how a message names a line."""
        return f"{self.kind} {self.path}, line {line}"
