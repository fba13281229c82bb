"""Listening on an address, or one sentence that says why not."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from grpo_tta.errors import UserError


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: the port is taken or the host is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(f"Cannot listen on {host} port {port} ({error}); choose another --port or --host.") from None


def patient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes a connection whose next request header is not complete in time.

    uvicorn itself waits for ever: a client that sends half a header would hold its connection until it leaves.
    """

    class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._waiting: asyncio.TimerHandle | None = None
            self._judge()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._judge()

        def connection_lost(self, error: Exception | None) -> None:
            self._stop()
            super().connection_lost(error)

        def _judge(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:  # a header is complete, its request is at work
                self._stop()
            elif self._waiting is None:
                self._waiting = asyncio.get_running_loop().call_later(seconds, self._close)

        def _stop(self) -> None:
            if self._waiting is not None:
                self._waiting.cancel()
                self._waiting = None

        def _close(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Patient


def address(listener: socket.socket) -> str:
    """The listening socket's address as a browser wants it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
