"""The commands `push` and `pull`: caches on the Hugging Face hub."""

import click

from kdcache.runtime.wording import counted, human_bytes, human_seconds
from kdcache_cli.options import JSON
from kdcache_cli.output import coverage_lines, print_result
from kdcache_cli.transfer import copied_lines


@click.command(short_help="Publish CACHE on the Hugging Face hub.")
@click.argument("cache")
@click.argument("address", metavar="hf://datasets/ORG/NAME")
@click.option("--private", is_flag=True, help="Make a new data set visible to its owner only.")
@JSON
def push(cache: str, address: str, private: bool, as_json: bool) -> None:
    """Publish CACHE on the Hugging Face hub, its manifest last. Run again, it goes on where it
    stopped."""
    from kdcache.tools.hub import push_cache

    result = push_cache(cache, address, private=private)
    objects = counted(result["objects"], "object")
    size = human_bytes(result["bytes"])
    duration = human_seconds(result["seconds"])
    lines = [
        ("address", result["address"]),
        ("revision", result["revision"]),
        ("sent", f"{objects}, {size} in {duration}"),
        *coverage_lines(result),
    ]
    print_result(result, lines, as_json=as_json)


@click.command(short_help="Fetch a cache from the Hugging Face hub.")
@click.argument("address", metavar="hf://datasets/ORG/NAME")
@click.argument("new")
@click.option(
    "--revision", help="The hub's commit, or a branch or tag  [what is newest].", metavar="NAME"
)
@JSON
def pull(address: str, new: str, revision: str | None, as_json: bool) -> None:
    """Fetch a published cache into NEW, checked on the way. Run again, it goes on where it
    stopped."""
    from kdcache.tools.hub import pull_cache

    result = pull_cache(address, new, revision=revision)
    lines = [
        ("cache", result["cache"]),
        ("from", address),
        ("revision", result["revision"]),
        *copied_lines(result),
    ]
    print_result(result, lines, as_json=as_json)
