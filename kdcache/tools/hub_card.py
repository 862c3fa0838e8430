"""The card of a published cache: what its manifest says, for people, as a README with the hub's
front matter."""

from collections.abc import Sequence

from kdcache.cache import Cache
from kdcache.codecs import codec_spec
from kdcache.errors import printable
from kdcache.runtime.wording import counted

_HEAD = """---
tags:
- kdcache
- knowledge-distillation
task_categories:
- image-{task}
---
"""


def card_text(cache: Cache, address: str, seeds: Sequence[int]) -> str:
    """Return the card of `cache` at `address`, of which `seeds` are complete."""
    rows = _table_rows(cache, seeds)
    data_option = " --data SPEC"
    if cache.manifest.has_images:
        data_option = ""
    return f"""{_HEAD.format(task=cache.manifest.task)}
# The logits of a teacher, cached

A cache of kdcache: what a teacher says of each augmented view of a data set. Students are trained from it without running the
teacher.

| | |
|---|---|
{rows}

```bash
kdcache pull {address} cache
kdcache verify cache
kdcache train-student run --cache cache{data_option} --student timm:resnet18
```

`kdcache pull` prints the revision that it fetched; `--revision` fetches that one again. Every object is checked against its
commit, and nothing in a cache is executed when it is read. The whole recipe is in `zarr.json`.
"""


def _table_rows(cache: Cache, seeds: Sequence[int]) -> str:
    """Return the lines of the card's table."""
    lines = []
    for name, text in _facts(cache, seeds).items():
        lines.append(f"| {name} | {_cell(text)} |")
    return "\n".join(lines)


def _facts(cache: Cache, seeds: Sequence[int]) -> dict[str, str]:
    """Return the rows of the card's table."""
    manifest = cache.manifest
    teacher = manifest.teacher
    images = "without the images"
    if manifest.has_images:
        images = "with the images"
    samples = str(manifest.rows)
    if manifest.samples is not None:
        samples = f"{manifest.num_held} of {manifest.rows}"
    data = f"{samples} samples, {manifest.classes} classes of the teacher, {images}"
    rows = counted(manifest.unit_rows, "row")
    units = f"units of {rows} x {counted(manifest.seeds_per_unit, 'seed')}"
    return {
        "teacher": f"`{teacher.spec}`, weights {teacher.sha256[:16]}, run in {teacher.precision}",
        "data": f"`{manifest.source.spec}`, {data}",
        "recipe of the views": f"`{manifest.recipe.name}`, {manifest.recipe.fingerprint[:16]}",
        "codec": f"`{codec_spec(cache.codec)}`",
        "complete seeds": ", ".join(map(str, seeds)) or "none",
        "store": f"{manifest.store}, {units}",
        "manifest": f"`{manifest.digest}`",
    }


def _cell(text: str) -> str:
    """Return a text that cannot leave its cell of a table."""
    return printable(" ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")
