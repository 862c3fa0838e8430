"""Mistakes in a program of one's own are told in one line, by a KdcacheError."""

import json
import re
from pathlib import Path

import pytest
from nursery import script
from tiny_models import FEW

PROGRAM = Path(__file__).with_name("misuse.py")
TOLD = {
    "batch size": "UsageError: batch_size is '8'; it must be a whole number",
    "no batch": "UsageError: batch_size is 0; it must be at least 1",
    "workers": "UsageError: num_workers is 1.5; it must be a whole number",
    "memory format": "UsageError: channels_last is 1; it must be True or False",
    "tail": "UsageError: tail is 'prior'; it must be 'uniform' or 'ghost' or 'none'",
    "mean": "UsageError: mean is 'x'; it must be a number or a list of numbers",
    "mean alone": "UsageError: mean and std belong together; give both, or neither",
    "seeds": r"UsageError: seeds is \[0.5\]; it must be text or a list of whole numbers",
    "epochs": "UsageError: epochs is nan; it must be a whole number",
    "state": "UsageError: the state lacks epoch, .*; give what state_dict",
    "epoch below": "UsageError: epoch is -1; it must be a whole number, 0 or more",
    "epoch": "UsageError: epoch is 'a'; it must be a whole number, 0 or more",
    "no path": "UsageError: cache is None; give the path or the address of one",
    "number for a path": "UsageError: cache is 5; give the path or the address of one",
    "recipe": "UsageError: recipe is 5; give a name, or the path of a .toml file",
    "rows": r"UsageError: rows are \[1.5\]; they must be a list of whole numbers",
    "seed": "UsageError: seeds are 'a'; they must be a list of whole numbers",
    "row of views": f"UsageError: row is 9999; rows are from 0 to {FEW - 1}",
    "rows of views": r"UsageError: views are asked for by \[5\]; give pairs \(row, seed\)",
    "other classes": "ModelError: the model gives 7 classes, and digits:test has 10; give data of",
    "no model": "UsageError: model is None; it must be torch.nn.Module",
    "no teacher": "UsageError: teacher is 3; it must be text or torch.nn.Module",
    "seeds of a dump": r"UsageError: seeds is \[0.5\]; it must be text or a list of whole numbers",
    "no seeds": "UsageError: seeds is an empty list; give one seed at least",
    "seeds of no text": "UsageError: seeds is empty; give a value",
    "mean that is not finite": "UsageError: mean is nan; it must be a number",
    "std that is not finite": r"UsageError: std is \[inf\]; it must be a number or a list of",
    "numbers of mean": "UsageError: mean is .*, 2 numbers, and the views have 1 channels; give one",
    "no mean": r"UsageError: mean is \[\], 0 numbers, and the views have",
    "size": r"UsageError: size is \(8, 8, 8\); it must be a whole number or 2 whole numbers",
    "model": "UsageError: model is 5; it must be torch.nn.Module",
    "cache for a path": "UsageError: cache is .*; it must be text or a Path or a list of text",
    "no path of several": r"UsageError: cache is \[None\]; it must be text or a Path or a list",
    "no state": "UsageError: the state is None; give what state_dict",
    "epoch of a state": "UsageError: the state's epoch is 'x'; give what state_dict",
    "seeds of a state": r"UsageError: the state's seeds is \[\]; give what state_dict",
    "identity of a state": "UsageError: the state's identity is 5; give what state_dict",
    "epoch of truth": "UsageError: epoch is True; it must be a whole number, 0 or more",
    "row alone": "UsageError: rows are 0; they must be a list of whole numbers",
    "rows of rows": r"UsageError: rows are \[\[0, 1\], \[2, 3\]\]; they must be a list",
    "ragged rows": r"UsageError: rows are \[\[0\], \[1, 2\]\]; they must be a list",
    "seed of truth": "UsageError: seeds is True; give one seed, or one for each row",
    "views of three": r"UsageError: views are asked for by .*; give pairs \(row, seed\)",
    "view of a fraction": r"UsageError: views are asked for by .*; give pairs \(row, seed\)",
    "seed of a fraction": r"UsageError: views are asked for by .*; give pairs \(row, seed\)",
    "seed below": r"UsageError: seed is -1; seeds are from 0 to 2\^32 - 1",
    "batch of an evaluation": "UsageError: batch_size is 0; it must be at least 1",
    "window": "UsageError: window is 5; it must be 2 whole numbers",
    "window without a pixel": r"UsageError: window is \(0, 5\); give its height and width, at least",
    "recipe of an evaluation": "UsageError: recipe is None; give the name of a shipped one, the",
    "mean of an own model": "UsageError: size, mean and std are of a plain module; a model of kdc",
    "mean of a dump": "UsageError: mean is nan; it must be a number or a list of numbers",
    "recipe of a dump": "UsageError: recipe is 5; give the name of a shipped one, the path of a",
    "cache of a dump": "UsageError: cache is None; it must be text or a Path",
    "layout": r"UsageError: kind of a layout is \[\]; it must be",
    "verify": "UsageError: cache is 5; it must be kdcache.Cache or text or a Path",
    "garbage": "CacheError: .*/none is not a cache",
    "merge of nothing": "UsageError: there are no caches to merge; give one at least",
    "merge inside": "UsageError: .*/cache/new is the cache itself, or inside it; give the new one",
    "maps for rows": r"UsageError: the student's logits are of shape \(1, 3, 4\); give rows",
    "class for rows": r"UsageError: the student's logits are of shape \(4,\); give rows",
    "labels of floats": r"UsageError: targets are torch.float32 of shape \(3,\); give a class index",
    "labels out of range": "UsageError: targets are from -1 to -1; the logits have classes 0 to 3",
    "merge": "UsageError: .*/link is the cache itself, or inside it; give the new one a folder of",
    "convert inside": "UsageError: .*/cache/new is the cache itself, or inside it; give the new one",
    "export": "UsageError: .*/cache is the cache itself, or inside it; give the new one a folder",
    "largest for dkd": "UsageError: this loss needs the label's logit, .*; use a cache with codec full",
    "largest for nkd": "UsageError: this loss needs the label's logit, .*; use a cache with codec full",
    "no list of taus": "UsageError: loss mlkd: taus is 4; it must be a list of temperatures",
    "labels in a list": r"UsageError: targets are \[0, 1, 2\]; give a tensor with a class index",
    "labels of bytes": r"UsageError: targets are torch.uint8 of shape \(3,\); give a class index",
    "rows for maps": r"UsageError: the student's maps are of shape \(3, 4\), .*; give maps",
    "classes before pixels": r"UsageError: the student's maps are of shape \(2, 4, 6, 5\), .*",
    "pixels": r"UsageError: the student's maps are of shape \(2, 5, 5, 4\), .*\(60, 4\); give maps",
    **{
        f"{what} {loss}": message
        for loss in ("dist", "kl", "dkd", "nkd", "mlkd", "mse")
        for what, message in {
            "sides of": "UsageError: the student's logits are of type DenseTargets; give a tensor of",
            "batch for": "UsageError: the teacher's side is of type DistillationBatch; give the soft",
            "array for": "UsageError: the student's logits are of type ndarray; give a tensor of them",
            "array of a teacher for": "UsageError: the teacher's side is of type ndarray; give the soft",
            "places for": "UsageError: the student's logits are torch.int64; give them as floats",
        }.items()
    },
    **{
        f"{what} of {loss}": message
        for loss in ("dist", "kl", "dkd", "nkd")
        for what, message in {
            "tau": "UsageError: tau is 0; it must be above 0, and finite",
            "tau in words": "UsageError: tau is '4'; it must be a number above 0",
            "finite tau": "UsageError: tau is nan; it must be above 0, and finite",
            "classes": r"UsageError: the student's logits are of shape \(3, 4\), .*\(3, 5\)",
            "rows": r"UsageError: the student's logits are of shape \(3, 4\), .*\(4, 4\)",
        }.items()
    },
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    program = script(
        PROGRAM, str(tmp_path_factory.mktemp("misuse")), folder=tmp_path_factory.mktemp("printed")
    )
    code, out, err = program.end()
    assert code == 0, err
    found: dict[str, list[str]] = json.loads(out)
    assert found.keys() == TOLD.keys()
    return found


@pytest.mark.parametrize("name", TOLD)
def test_a_mistake_is_told(outcomes: dict[str, list[str]], name: str) -> None:
    kind, message = outcomes[name]
    assert re.match(TOLD[name], f"{kind}: {message}"), f"{kind}: {message}"
    assert "\n" not in message and len(message) <= 500
