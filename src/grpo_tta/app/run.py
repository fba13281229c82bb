"""Serves the page. Nothing on it comes from another host, and a policy in every answer forbids the browser to try."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grpo_tta.app.draw import style
from grpo_tta.app.page import make_page
from grpo_tta.backbones.base import Backbone
from grpo_tta.service.listen import address, open_socket

# Gradio's scripts build templates by eval and keep images in blobs; all of it stays on this host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
MONO = ("ui-monospace", "DejaVu Sans Mono", "monospace")


def create_app(models: Sequence[str], load: Callable[[str], Backbone]) -> ASGIApp:
    """The page as an ASGI application.

    Args:
        models: names of the models that it offers.
        load: name -> backbone.
    """
    theme = gr.themes.Default(primary_hue="orange", neutral_hue="slate", font=FONT, font_mono=MONO)
    # white on the default orange is too faint to read
    fill = {"button_primary_background_fill": "*primary_700", "button_primary_background_fill_hover": "*primary_800"}
    theme.set(**fill, **{f"{name}_dark": shade for name, shade in fill.items()})
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None),
        make_page(models, load),
        path="/",
        theme=theme,
        css=style(),
        footer_links=[],
        ssr_mode=False,
        max_file_size="32mb",
    )
    return _WithPolicy(app)


@final
class _WithPolicy:
    """Adds the content security policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        await self._app(scope, receive, send_with_policy)


def serve_page(
    models: Sequence[str], load: Callable[[str], Backbone], *, host: str, port: int, announce: Callable[[str], None]
) -> None:
    """Serves the page until it is stopped. `announce` is called with its address.

    Raises:
        UserError: the address cannot be listened on.
    """
    listener = open_socket(host, port)
    announce(address(listener))
    uvicorn.run(create_app(models, load), fd=listener.fileno(), log_level="warning")
