"""A hub cache on disk as the hub's client leaves it."""

from __future__ import annotations

import shutil
from pathlib import Path

REVISION = "0123456789abcdef0123456789abcdef01234567"


def cache_repository(cache: Path, repository: str, files: Path) -> Path:
    """Puts the files of a folder into the cache as those of a repository, whose other files are known not to exist; returns
    where they lie."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(REVISION)
    absent = root / ".no_exist" / REVISION
    absent.mkdir(parents=True)
    for name in ("config.json", "adapter_config.json", "chat_template.jinja"):
        if not (files / name).exists():
            (absent / name).touch()
    return Path(shutil.copytree(files, root / "snapshots" / REVISION))
