"""The way to a Ray cluster: the module, and the connection to it."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from kdcache.dump.config import RayConfig
from kdcache.errors import KdcacheError
from kdcache.runtime.stopping import handlers_kept


def require_ray() -> Any:
    """Return the module `ray`.

    Raises:
        KdcacheError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415
    except ImportError as error:
        raise KdcacheError(
            "ray is not installed; pip install 'kdcache[ray]', or leave out --engine ray"
        ) from error
    return ray


@contextmanager
def connected(config: RayConfig) -> Iterator[Any]:
    """Connect to the cluster, or start Ray here, to the end of the block, unless that has been
    done; give the module `ray`.

    Raises:
        KdcacheError: there is no cluster at the address.
    """
    ray = require_ray()
    if ray.is_initialized():
        yield ray
        return
    # Ray tells there of the dead, with pages of its log
    with (
        handlers_kept(),
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
    ):
        try:
            ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = config.address or os.environ.get("RAY_ADDRESS", "this machine")
            reason = str(error).partition("\n")[0]
            raise KdcacheError(
                f"no Ray on {where}: {reason}; start it with ray start, or check ray.address"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()
