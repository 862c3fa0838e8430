"""The way to the hub: addresses, huggingface_hub's client, and its errors in one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdcache.errors import CacheError, UsageError
from kdcache.runtime.downloads import asking_hub, network_reason


def parse_address(address: str) -> str:
    """Return `ORG/NAME` of `hf://datasets/ORG/NAME`.

    Raises:
        UsageError: another address.
    """
    match = re.fullmatch(r"hf://datasets/([A-Za-z0-9._-]+/[A-Za-z0-9._-]+)/?", address)
    if not match:
        raise UsageError(f"address {address!r} is not of the form hf://datasets/ORG/NAME")
    return match[1]


def address_of(repo: str) -> str:
    """Return the address of the data set `ORG/NAME`."""
    return f"hf://datasets/{repo}"


def open_api() -> Any:
    """Return huggingface_hub's client; endpoint and token come from where its own tools take them.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from huggingface_hub import HfApi  # noqa: PLC0415 # an extra
        from huggingface_hub.utils import disable_progress_bars  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "caches on the hub need huggingface_hub; pip install 'kdcache[hub]'"
        ) from None
    disable_progress_bars()  # one per file, of which there may be thousands
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="kdcache")


@contextmanager
def one_line_errors(where: str) -> Iterator[None]:
    """Turn what goes wrong on the way to the hub and back into an error of one line."""
    try:
        with asking_hub():
            yield
    except Exception as error:  # of the hub's client, and of the several libraries below it
        network = network_reason(error)
        if network is not None:
            way_out = "check the network, and run the same command again"
            raise CacheError(f"{where}: the hub cannot be reached: {network}; {way_out}") from error
        reason = " ".join(str(error).split())[:300]
        way_out = (
            "see that the name is right, that you are logged in (hf auth login), and run the same"
            " command again"
        )
        raise CacheError(f"{where}: {type(error).__name__}: {reason}; {way_out}") from error
