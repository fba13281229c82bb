"""Loading what a command needs without looking for garbage in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """For imports and models. What is loaded inside is never searched for garbage, now or later: nearly all of it stays.

    torch and the libraries of models make millions of objects. To look for cycles among them again and again takes a fifth of
    a short command's time.
    """
    was_on = gc.isenabled()
    gc.collect()  # nothing that is garbage by now must stay; before the imports there is next to none
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
