"""How a command over many images ends: done, stopped by a signal, or with nobody left who reads its rows."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from grpo_tta.cli.interrupts import Stopped
from grpo_tta.cli.progress import log
from grpo_tta.errors import UserError

if TYPE_CHECKING:
    from grpo_tta.cli.predictions import Output, Tally

CLOSED_PIPE = 141
"""Exit status where the reader of standard output has gone (`| head`): that of a program that SIGPIPE ends."""


def until_stopped(work: Callable[[], None], output: Output) -> int:
    """Does the work and closes the output, after a signal too. Returns the exit status of an interruption, or 0.

    Raises:
        UserError: the rows cannot be written.
    """
    status = 0
    try:
        try:
            work()
        except (Stopped, KeyboardInterrupt) as stop:
            status = stop.status if isinstance(stop, Stopped) else 130
        finally:
            output.close()
    except BrokenPipeError:
        status = CLOSED_PIPE
        _give_up_standard_output()
    except OSError as error:  # those of an image are a row
        _give_up_standard_output()
        raise UserError(f"The answers cannot be written ({error.strerror}); make room, or name another place.") from None
    return status


def finish(status: int, tally: Tally, total: Tally, images: int, per_second: float, *, resumable: bool) -> int:
    """Says how it ended, and returns the exit status.

    Args:
        status: of an interruption, or 0.
        tally: of this run's rows.
        total: of all rows, those of earlier runs among them.
        images: that this run was to answer.
        resumable: the same command goes on where this one ended.
    """
    if status == CLOSED_PIPE:
        return status  # quietly, as the reader wanted no more
    if tally.rows < images:
        again = " The same command resumes." if resumable else ""
        log.warning(f"Interrupted after {tally.rows:,} of {images:,} images.{again}")
    log.info(total.summary(per_second if images else None))
    return status or (1 if total.unreadable else 0)


def _give_up_standard_output() -> None:
    """Python would complain at its end of what it could not write."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
