"""Mistakes in a program of one's own, run as such a program runs: without the tests' own check of
types. Prints what came of each as JSON: the class of the error, and its message."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_models
import torch

import kdcache
from kdcache.positions import layout_from_dict

DATA = "tiny_models:few_digits"
ROWS = torch.zeros(3, 4)
LABELS = torch.zeros(3, dtype=torch.int64)
NORMALISED: dict[str, Any] = {"mean": 0.5, "std": 0.25}
LOSSES: dict[str, Callable[..., Any]] = {
    "dist": kdcache.dist_loss,
    "kl": kdcache.kl_loss,
    "dkd": lambda student, teacher, **more: kdcache.dkd_loss(student, teacher, LABELS, **more),
    "nkd": lambda student, teacher, **more: kdcache.nkd_loss(student, teacher, LABELS, **more),
}


def make(folder: Path) -> str:
    """Return a cache of digits."""
    teacher = tiny_models.conv(seed=7)
    path = folder / "cache"
    given: dict[str, Any] = {"data": DATA, "recipe": "digits", "num_workers": 0, **NORMALISED}
    kdcache.dump_teacher(path, teacher=teacher, codec="full:dtype=float32", **given)
    (folder / "link").symlink_to(path)
    return str(path)


def cases(path: str) -> dict[str, Callable[[], Any]]:
    """Return the mistakes by name."""
    cache: Any = kdcache.open_cache(path)
    views: Any = kdcache.views_of(path, DATA)
    loader: Any = kdcache.DistillationLoader(path, data=DATA, num_workers=0)
    link = str(Path(path).with_name("link"))

    def loading(**changes: Any) -> Callable[[], Any]:
        settings: Any = {"data": DATA, "num_workers": 0, **changes}
        return lambda: kdcache.DistillationLoader(path, **settings)

    def evaluating(model: Any, **changes: Any) -> Callable[[], Any]:
        given: Any = {"recipe": "digits", "num_workers": 0, **NORMALISED, **changes}
        return lambda: kdcache.evaluate(model, "digits:test", **given)

    def dumping(**changes: Any) -> Callable[[], Any]:
        given: Any = {"data": DATA, "recipe": "digits", "num_workers": 0, **NORMALISED, **changes}
        return lambda: kdcache.dump_teacher(Path(path).with_name("new"), **given)

    found: dict[str, Callable[[], Any]] = {
        "batch size": loading(batch_size="8"),
        "no batch": loading(batch_size=0),
        "workers": loading(num_workers=1.5),
        "memory format": loading(channels_last=1),
        "tail": loading(tail="prior"),
        "mean": loading(mean="x", std=1),
        "mean alone": loading(mean=0.5),
        "seeds": loading(seeds=[0.5]),
        "epochs": loading(epochs=float("nan")),
        "state": lambda: loader.load_state_dict({"a": 1}),
        "epoch below": lambda: loader.set_epoch(-1),
        "epoch": lambda: loader.set_epoch("a"),
        "no path": lambda: kdcache.open_cache(None),  # type: ignore[arg-type]
        "number for a path": lambda: kdcache.open_cache(5),  # type: ignore[arg-type]
        "recipe": lambda: kdcache.load_recipe(5),  # type: ignore[arg-type]
        "rows": lambda: cache.read(0, [1.5]),
        "seed": lambda: cache.read("a", [1]),
        "row of views": lambda: views.batch([(9999, 0)]),
        "rows of views": lambda: views.batch([5]),
        "other classes": evaluating(tiny_models.mlp(classes=7)),
        "no model": evaluating(None),
        "no teacher": dumping(teacher=3),
        "seeds of a dump": dumping(teacher=tiny_models.conv(), seeds=[0.5]),
        "no seeds": loading(seeds=[]),
        "seeds of no text": loading(seeds=""),
        "mean that is not finite": loading(mean=float("nan"), std=0.5),
        "std that is not finite": loading(mean=0.5, std=[float("inf")]),
        "numbers of mean": loading(mean=[0.1, 0.2], std=0.5),
        "no mean": loading(mean=[], std=[]),
        "size": loading(size=(8, 8, 8)),
        "model": loading(model=5),
        "cache for a path": lambda: kdcache.DistillationLoader(cache, data=DATA),
        "no path of several": lambda: kdcache.DistillationLoader([None], data=DATA),  # type: ignore[list-item]
        "no state": lambda: loader.load_state_dict(None),
        "epoch of a state": lambda: loader.load_state_dict({**loader.state_dict(), "epoch": "x"}),
        "seeds of a state": lambda: loader.load_state_dict({**loader.state_dict(), "seeds": []}),
        "identity of a state": lambda: loader.load_state_dict(
            {**loader.state_dict(), "identity": 5}
        ),
        "epoch of truth": lambda: loader.set_epoch(True),
        "row alone": lambda: cache.read(0, 0),
        "rows of rows": lambda: cache.read(0, [[0, 1], [2, 3]]),
        "ragged rows": lambda: cache.read(0, [[0], [1, 2]]),
        "seed of truth": lambda: cache.read(True, [0]),
        "views of three": lambda: views.batch([(1, 2, 3)]),
        "view of a fraction": lambda: views.batch([(0.5, 0)]),
        "seed of a fraction": lambda: views.batch([(0, 1.5)]),
        "seed below": lambda: views.batch([(0, -1)]),
        "batch of an evaluation": evaluating(tiny_models.conv(), batch_size=0),
        "window": evaluating(tiny_models.conv(), window=5),
        "window without a pixel": evaluating(tiny_models.conv(), window=(0, 5)),
        "recipe of an evaluation": evaluating(tiny_models.conv(), recipe=None),
        "mean of an own model": evaluating(
            kdcache.open_model(
                "tiny_models:conv,mean=0.5,std=0.25", classes=10, recipe=views.recipes[0]
            )
        ),
        "mean of a dump": dumping(teacher=tiny_models.conv(), mean=float("nan")),
        "recipe of a dump": dumping(teacher=tiny_models.conv(), recipe=5),
        "cache of a dump": lambda: kdcache.dump_teacher(
            None,  # type: ignore[arg-type]
            data=DATA,
            teacher=tiny_models.conv(),
            recipe="digits",
            **NORMALISED,
        ),
        "layout": lambda: layout_from_dict([]),  # type: ignore[arg-type]
        "verify": lambda: kdcache.verify_cache(5),  # type: ignore[arg-type]
        "garbage": lambda: kdcache.collect_garbage(str(Path(path).with_name("none"))),
        "merge of nothing": lambda: kdcache.merge_caches(Path(path).with_name("new"), []),
        "merge inside": lambda: kdcache.merge_caches(f"{path}/new", [path]),
        "maps for rows": lambda: kdcache.dist_loss(ROWS[None], ROWS[None]),
        "class for rows": lambda: kdcache.kl_loss(ROWS[0], ROWS[0]),
        "labels of floats": lambda: kdcache.dkd_loss(ROWS, ROWS, LABELS.float()),
        "labels out of range": lambda: kdcache.nkd_loss(ROWS, ROWS, LABELS - 1),
        "merge": lambda: kdcache.merge_caches(link, [path]),
        "convert inside": lambda: kdcache.convert_cache(
            path, f"{path}/new", store="webdataset", images=False
        ),
        "export": lambda: kdcache.export_cache(path, path),
    }
    batch = next(iter(loader))
    maps = torch.zeros(2, 6, 5, 4)
    pixels = torch.zeros(2 * 6 * 5, 4)
    topk = kdcache.open_codec("topk:k=2", classes=4)
    largest = topk.decode(topk.encode(ROWS), "cpu")
    found |= {
        "largest for dkd": lambda: kdcache.dkd_loss(ROWS, largest, LABELS),
        "largest for nkd": lambda: kdcache.nkd_loss(ROWS, largest, LABELS),
        "no list of taus": lambda: kdcache.mlkd_loss(ROWS, ROWS, taus=4),  # type: ignore[arg-type]
        "labels in a list": lambda: kdcache.nkd_loss(ROWS, ROWS, [0, 1, 2]),  # type: ignore[arg-type]
        "labels of bytes": lambda: kdcache.dkd_loss(ROWS, ROWS, LABELS.byte()),
        "rows for maps": lambda: kdcache.cwd_loss(ROWS, ROWS),
        "classes before pixels": lambda: kdcache.cwd_loss(maps.permute(0, 3, 1, 2), pixels),
        "pixels": lambda: kdcache.cwd_loss(maps[:, 1:], pixels),
    }
    for name, loss in {**LOSSES, "mlkd": kdcache.mlkd_loss, "mse": kdcache.mse_loss}.items():
        found[f"sides of {name}"] = lambda loss=loss: loss(batch.teacher, ROWS)
        found[f"batch for {name}"] = lambda loss=loss: loss(ROWS, batch)
        found[f"array for {name}"] = lambda loss=loss: loss(ROWS.numpy(), ROWS)
        found[f"array of a teacher for {name}"] = lambda loss=loss: loss(ROWS, ROWS.numpy())
        found[f"places for {name}"] = lambda loss=loss: loss(ROWS.argmax(1), ROWS)
    for name, loss in LOSSES.items():
        found[f"tau in words of {name}"] = lambda loss=loss: loss(ROWS, ROWS, tau="4")
        found[f"tau of {name}"] = lambda loss=loss: loss(ROWS, ROWS, tau=0)
        found[f"finite tau of {name}"] = lambda loss=loss: loss(ROWS, ROWS, tau=float("nan"))
        found[f"classes of {name}"] = lambda loss=loss: loss(ROWS, torch.zeros(3, 5))
        found[f"rows of {name}"] = lambda loss=loss: loss(ROWS, torch.zeros(4, 4))
    return found


def outcome(mistake: Callable[[], Any]) -> list[str]:
    """Return the class of what is raised, and what it says."""
    try:
        mistake()
    except Exception as error:
        is_ours = isinstance(error, kdcache.KdcacheError)
        return [type(error).__name__ if is_ours else f"bare {type(error).__name__}", str(error)]
    return ["nothing", ""]


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: outcome(mistake) for name, mistake in cases(make(Path(sys.argv[1]))).items()}
    sys.stdout.write(json.dumps(found))
