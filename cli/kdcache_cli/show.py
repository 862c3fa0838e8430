"""The command `show`: a picture of one view and of what the teacher says of it."""

import click

from kdcache_cli.options import JSON
from kdcache_cli.output import print_result


@click.command(short_help="Draw a view of CACHE and what the teacher says of it.")
@click.argument("cache", metavar="CACHE[,classes=FILE[,names=FILE]]")
@click.option("--view", required=True, help="Sample of the source, and seed.", metavar="INDEX:SEED")
@click.option(
    "-o", "--out", required=True, help="Picture to write (.png, .pdf, .svg).", metavar="FILE"
)
@click.option("--data", help="Source  [the cache's own images, if it holds them].", metavar="SPEC")
@JSON
def show(cache: str, view: str, out: str, data: str | None, as_json: bool) -> None:
    """Draw a view of CACHE, what is right of it, and what the teacher says.

    Of a teacher of other classes say the map and the names as to a training: classes=map.csv tells
    beside each class which one of the data it is.
    """
    from kdcache.cache import open_cache
    from kdcache.errors import UsageError
    from kdcache.loader.cache_specs import parse_cache

    index, _, seed = view.partition(":")
    if not (index.isdecimal() and seed.isdecimal()):
        raise UsageError(f"view is {view!r}; it must be INDEX:SEED, such as 17:0")
    path, options = parse_cache(cache)
    opened = open_cache(path)
    from kdcache.tools.show import show_view

    result = show_view(opened, out, index=int(index), seed=int(seed), data=data, options=options)
    lines = [
        ("file", result["file"]),
        ("sample", f"{result['sample']}, row {result['row']}"),
        ("teacher", f"is sure by {100 * result['confidence']:.1f} %"),
    ]
    print_result(result, lines, as_json=as_json)
