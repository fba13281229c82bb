"""Listening on an address, or one sentence that says why not."""

from __future__ import annotations

import socket

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


def address(listener: socket.socket) -> str:
    """The listening socket's address as a browser wants it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
