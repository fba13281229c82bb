"""What of the model hub is on this machine, and how its client is kept off the network."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence

from huggingface_hub import constants, scan_cache_dir, try_to_load_from_cache
from huggingface_hub.errors import CacheNotFound

from grpo_tta.errors import UserError


@contextlib.contextmanager
def offline(enabled: bool) -> Iterator[None]:
    """Keeps the hub client off the network unless the user allowed a download, and its libraries from logging about it."""
    if not enabled:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # the refused download is logged at length; the user gets one sentence instead
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(quiet)


def failure(name: str, error: Exception, *, download: bool, folder: bool) -> UserError:
    """One sentence for a model that is there, or was to be fetched, and cannot be loaded."""
    first = str(error).strip().split("\n")[0]  # the loaders list every tensor that does not fit
    remedy = "write its files again"
    if not folder:
        remedy = "check the connection and try again" if download else "allow the download with --download or name a folder"
    return UserError(f"{name}: the model could not be loaded ({first.rstrip('.')}); {remedy}.")


def is_cached(repository: str, files: Sequence[str]) -> bool:
    """Whether one of these files of a hub repository lies in the hub's cache on this machine."""
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in files)


def cached_repositories() -> list[str]:
    """Ids of the model repositories in the hub's cache, sorted."""
    try:
        found = scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    return sorted(repository.repo_id for repository in found.repos if repository.repo_type == "model")
