"""Commands run as a user without rights, where the tests run as root, to whom everything is open."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

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
