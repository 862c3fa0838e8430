"""Which model is meant by the folder of a run, or by a spec with weights; all of it without
torch."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kdcache.config.files import load_config
from kdcache.config.spec import parse_spec
from kdcache.errors import MismatchError, UsageError
from kdcache.models.run_folders import COMMAND, CONFIG_FILE, folder_of_run, model_spec
from kdcache.models.specs import take_weights
from kdcache.models.weight_facts import WeightFacts, read_facts
from kdcache.runtime.console import say
from kdcache.sources import Source, class_names_of
from kdcache.train.config import TrainConfig


@dataclass(frozen=True)
class SavedModel:
    """A model that is saved: the student of a run, or any weights."""

    spec: str
    """Of the model, with its weights."""
    run: TrainConfig | None = None
    """The settings of its run, if that is named."""

    @cached_property
    def facts(self) -> WeightFacts | None:
        """What the file of its weights says; None if there is no file, or it says nothing.

        Raises:
            ModelError: there is no such file, or it is something else.
        """
        path = self._weights_file
        if path is None:
            return None
        return read_facts(path)

    @property
    def is_silent(self) -> bool:
        """Whether its weights are in a file that says nothing of the model."""
        return self._weights_file is not None and self.facts is None

    @property
    def _weights_file(self) -> Path | None:
        spec = parse_spec(self.spec)
        files = take_weights(spec, dict(spec.options))
        if files.has_new_head:
            return None
        return files.whole

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """What the file of its weights calls its classes; None if it has no names."""
        if self.facts is None:
            return None
        return self.facts.label_names

    def data_or_own(self, data: str | None) -> str:
        """Return the data that is given, a spec or a path, or else that its run is evaluated on.

        Raises:
            UsageError: there is none.
        """
        if data is None and self.run is not None:
            data = self.run.eval_data
        if data is None:
            raise UsageError("there is no data, and no run that is evaluated on some; give --data")
        return data

    def require_order(self, source: Source) -> None:
        """Check that a source has its classes in the model's order; say it if it calls them
        otherwise.

        Raises:
            MismatchError: it has the same names in another order.
        """
        names = class_names_of(source)
        own_names = self.label_names
        if names is None or own_names is None or names == own_names:
            return
        if len(own_names) != len(names):
            return  # which is told when the model has run
        place = [own == other for own, other in zip(own_names, names, strict=True)].index(False)
        contrast = f"class {place} {names[place]!r}, which the model calls {own_names[place]!r}"
        if sorted(own_names) == sorted(names):
            raise MismatchError(
                f"data {source.spec} has the model's classes in another order: it calls {contrast};"
                " give data of the same order"
            )
        say(f"note: data {source.spec} calls {contrast}; classes go by place, not by name")


def find_model(text: str) -> SavedModel:
    """Return the model that the folder of a run means, or that a spec does.

    Raises:
        UsageError: the folder is no run.
        KdcacheError: the run has no weights yet.
    """
    folder = folder_of_run(text)
    if folder is None:
        return SavedModel(text)
    file = str(folder / CONFIG_FILE)
    run = load_config(TrainConfig, COMMAND, file=file, flags={}, is_ours=True)
    return SavedModel(model_spec(text), run)
