"""Commands run as a user without rights, where the tests run as root, to whom everything is open."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def as_nobody(command: list[str]) -> list[str]:
    """The command itself, or as root the command as another user; skips the test where that cannot be."""
    if os.getuid() != 0:
        return command
    if not shutil.which("setpriv"):
        pytest.skip("as root, every folder opens; setpriv would make us another user")
    if subprocess.run([*NOBODY, sys.executable, "-c", "import grpo_tta.errors"], capture_output=True).returncode:
        pytest.skip("another user cannot read this checkout; open its folders to others (chmod o+rx)")
    return [*NOBODY, *command]


def open_to_others(folder: Path) -> None:
    """Lets another user enter a folder of the tests."""
    for parent in (folder, *folder.parents):
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
