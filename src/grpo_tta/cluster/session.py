"""Ray for the time of a run."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

import ray

from grpo_tta.cluster.settings import RaySettings
from grpo_tta.errors import UserError

_LIGHT_CPUS = 2  # of a Ray started here: for reading, writing and the filter of a resumed run


@contextlib.contextmanager
def session(settings: RaySettings) -> Iterator[None]:
    """Ray for the time of a run: one that is there already, the cluster named, or one started here (and ended).

    No usage statistics and no dashboard.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if settings.address or os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address=settings.address, **quiet)
        except ConnectionError as error:
            raise UserError(f"No Ray cluster can be reached ({error}); check --ray-address.") from None
    else:
        # Else Ray Data starts 32 processes to read the footers of a manifest.
        os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
        ray.init(
            address="local",
            num_cpus=math.ceil(settings.actors * settings.cpus) + _LIGHT_CPUS,
            include_dashboard=False,
            object_store_memory=None if settings.object_store_mb is None else settings.object_store_mb * 10**6,
            **quiet,
        )
    try:
        yield
    finally:
        ray.shutdown()
