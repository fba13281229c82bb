"""A user's own reward, advantage or group rule, named by file and function: `FILE.py:NAME`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, final

from grpo_tta.errors import UserError


@final
@dataclass(frozen=True)
class FromFile:
    """A function of a file, which carries the file's text: so it travels to other processes and machines.

    Attributes:
        path: of the file, as the user wrote it.
        name: of the function.
        text: of the file.
    """

    path: str
    name: str
    text: str = field(repr=False)

    @classmethod
    def read(cls, path: Path, name: str) -> FromFile:
        """
        Raises:
            UserError: no such file, a file that does not run, or no such function in it.
        """
        try:
            text = path.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); write FILE.py:NAME.") from None
        found = cls(str(path), name, text)
        found.function()  # refused now, not in the middle of a run
        return found

    @property
    def needs(self) -> frozenset[str]:
        """What the function declares that it needs."""
        return frozenset(getattr(self.function(), "needs", ()))

    def function(self) -> Any:
        """
        Raises:
            UserError: the file does not run, or holds no such function.
        """
        made = getattr(_module(self.path, self.text), self.name, None)
        if not callable(made) or isinstance(made, type):
            raise UserError(f"{self.path}: no function {self.name!r} in it; write FILE.py:NAME.")
        return made

    def __call__(self, *arguments: Any) -> Any:
        return self.function()(*arguments)

    def __plain__(self) -> dict[str, str]:
        """How it is written down: where it stands, and a hash of the file's text."""
        source = hashlib.blake2b(self.text.encode(), digest_size=6).hexdigest()
        return {"function": f"{self.path}:{self.name}", "source": source}


@cache
def _module(path: str, text: str) -> ModuleType:
    module = ModuleType(Path(path).stem)
    module.__file__ = path
    try:
        exec(compile(text, path, "exec"), module.__dict__)
    except Exception as error:
        raise UserError(f"{path}: does not run ({type(error).__name__}: {error}).") from None
    return module
