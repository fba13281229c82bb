"""Runs the service until it is stopped."""

from __future__ import annotations

import signal
from collections.abc import Callable

import uvicorn

from grpo_tta.classifier import GRPOTTA
from grpo_tta.service.http import create_service
from grpo_tta.service.limits import Limits
from grpo_tta.service.listen import address, open_socket, patient_protocol


def serve(classifier: GRPOTTA, *, host: str, port: int, limits: Limits, batch: int, announce: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM, then takes nothing new, finishes what it accepted, and returns.

    Args:
        port: 0 takes any free one.
        announce: is called with the address as soon as connections are accepted.

    Raises:
        UserError: the address cannot be listened on.
    """
    listener = open_socket(host, port)
    announce(address(listener))
    config = uvicorn.Config(
        create_service(classifier, limits, batch=batch),
        log_level="warning",
        http=patient_protocol(limits.seconds),
        timeout_graceful_shutdown=round(limits.seconds) + 5,  # an accepted request has its answer or a refusal by then
    )
    # uvicorn raises the signal again once it has shut down; an orderly end is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets=[listener])
