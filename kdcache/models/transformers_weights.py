"""Weights of Hugging Face transformers: those that lie beside a configuration, and the names that
they have in files.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from kdcache.config.spec import Spec
from kdcache.errors import ModelError, brief
from kdcache.models.building import constructing
from kdcache.models.hub_files import WEIGHTS
from kdcache.models.weight_formats import check_weight_file, some_names
from kdcache.runtime.console import say

_Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of a tensor in a file, and in the model."""


def with_weights(spec: Spec, auto: Any, config: Any, folder: Path, *, is_teacher: bool) -> Any:
    """Return a model with the weights of a folder; what a student's head lacks is drawn at random.

    Raises:
        ModelError: they are not there, cannot be read, or do not fit.
    """
    _require_weights(spec, folder)
    with constructing(spec, "copy or download its weights again"):
        module, report = auto.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            weights_only=True,
        )
    shapes = _shapes_by_name(report["mismatched_keys"])
    drawn_names = sorted({*report["missing_keys"], *shapes})
    body_names = _beginning_with(drawn_names, _body_prefix(module))
    if body_names:
        misfit = _misfit(body_names[0], shapes)
        way_out = "check its options; pretrained=false takes fresh weights"
        raise ModelError(
            f"model {spec}: its weights do not fit its configuration: {misfit}; {way_out}"
        )
    if drawn_names and is_teacher:
        misfit = _misfit(drawn_names[0], shapes)
        way_out = "a teacher must be trained for the classes: take one that is, or add weights=FILE"
        raise ModelError(f"teacher {spec} has no trained head: {misfit}; {way_out}")
    if drawn_names:
        head = f"a fresh head for {config.num_labels} classes"
        say(f"note: model {spec} has {head}: {some_names(drawn_names)}")
    return module


def _body_prefix(module: Any) -> str:
    """Return how the names of all that is no head begin."""
    name = module.base_model_prefix
    if name and hasattr(module, name):
        return f"{name}."
    return "backbone."


def _beginning_with(names: Iterable[str], prefix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix)]


def _shapes_by_name(mismatches: Iterable[tuple[str, Any, Any]]) -> dict[str, _Shapes]:
    shapes = {}
    for name, stored_shape, model_shape in mismatches:
        shapes[name] = (tuple(stored_shape), tuple(model_shape))
    return shapes


def _misfit(name: str, shapes: Mapping[str, _Shapes]) -> str:
    if name not in shapes:
        return f"{brief(name)} is not in them"
    stored_shape, model_shape = shapes[name]
    return f"{brief(name)} is {stored_shape} in them, {model_shape} in the model"


def names_in_files(module: Any) -> dict[str, str]:
    """Return by their names in files of transformers the names that weights have in a module, of
    those that differ."""
    state = module.state_dict()
    module_names = {id(tensor): name for name, tensor in state.items()}
    try:
        from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415

        as_written = revert_weight_conversion(module, state)
    except Exception:  # of a version without it, or that cannot: files have the module's names then
        return {}
    differing_names = {}
    for file_name, tensor in as_written.items():
        module_name = module_names.get(id(tensor), file_name)
        if module_name != file_name:
            differing_names[file_name] = module_name
    return differing_names


def _require_weights(spec: Spec, folder: Path) -> None:
    """Check that weights lie beside a configuration, and are files of weights.

    Raises:
        ModelError: there are none, or they are something else, such as a git-lfs pointer.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            check_weight_file(folder / name)
            return
        if (folder / f"{name}.index.json").is_file():
            return  # of several files: transformers finds what is missing
    way_out = "add weights=FILE, or pretrained=false for fresh ones"
    raise ModelError(f"model {spec} has no {' or '.join(WEIGHTS)} in {folder}; {way_out}")
