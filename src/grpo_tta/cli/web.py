"""The commands `serve` (HTTP service) and `app` (web page). Heavy imports happen inside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, final

import typer

from grpo_tta.cli.command import command_of
from grpo_tta.cli.options import (
    Device,
    Download,
    Model,
    Precision,
    Preset,
    Seed,
    Templates,
    Threads,
    Weights,
    precision_of,
    say,
    say_of_nano_clip,
    split_list,
)
from grpo_tta.errors import UserError

if TYPE_CHECKING:
    from grpo_tta.service.limits import Limits

Host = Annotated[str, typer.Option(help="Address to listen on. 0.0.0.0 opens it to the network.")]
MIB = 2**20


@final
@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What `grpo-tta serve` takes."""

    labels: Annotated[
        str, typer.Option(help="Comma-separated class names, at least two. A request may bring labels of its own.")
    ]
    model: Model = "nano-clip"
    weights: Weights = None
    template: Templates = None
    preset: Preset = "default"
    host: Host = "127.0.0.1"
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8000
    batch: Annotated[int, typer.Option(help="Most images adapted in one pass.")] = 16
    max_body_mib: Annotated[float, typer.Option(help="Length of one request.")] = 32
    max_image_mib: Annotated[float, typer.Option(help="Length of one encoded image.")] = 8
    max_pixels: Annotated[int, typer.Option(help="Pixels of one image.")] = 2**24
    max_images: Annotated[int, typer.Option(help="Images of one request.")] = 16
    max_labels: Annotated[int, typer.Option(help="Labels that a request may bring.")] = 100
    max_queue: Annotated[int, typer.Option(help="Images accepted and not answered yet.")] = 256
    max_seconds: Annotated[float, typer.Option(help="Time of one request.")] = 30.0
    seed: Seed = 0
    device: Device = "auto"
    dtype: Precision = "float32"
    threads: Threads = None
    online: Annotated[bool, typer.Option("--online", hidden=True, help="Refused, with the reason.")] = False
    download: Download = False


@command_of(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Serve predictions over HTTP: POST /v1/classify, GET /healthz, /metrics and /openapi.json."""
    if options.online:
        raise UserError(
            "Requests come in no order, and a stream depends on it; leave out --online, or use predict --online instead."
        )
    need_extra("serve", "fastapi", "uvicorn", "prometheus_client", "python_multipart")
    from grpo_tta.backbones.hardware import set_threads
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.classifier import GRPOTTA
    from grpo_tta.service.run import serve as run

    limits = _limits(options)
    set_threads(options.threads)
    classifier = GRPOTTA(
        options.model,
        split_list(options.labels),
        templates=options.template or DEFAULT_TEMPLATE,
        settings=options.preset,
        seed=options.seed,
        device=options.device,
        batch=options.batch,
        download=options.download,
        dtype=precision_of(options.dtype, options.device, say),
        weights=options.weights,
    )

    say_of_nano_clip(options.model)

    def announce(address: str) -> None:
        typer.echo(f"Serving {options.model} on {address} (POST {address}/v1/classify; Ctrl+C stops it)")

    run(classifier, host=options.host, port=options.port, limits=limits, batch=options.batch, announce=announce)


def _limits(options: ServeOptions) -> Limits:
    from grpo_tta.service.limits import Limits

    body_bytes = round(options.max_body_mib * MIB)
    return Limits(
        body_bytes=body_bytes,
        image_bytes=round(options.max_image_mib * MIB),
        pixels=options.max_pixels,
        images=options.max_images,
        labels=options.max_labels,
        queue=options.max_queue,
        queue_pixels=max(Limits.queue_pixels, options.max_images * options.max_pixels),
        queue_bytes=max(Limits.queue_bytes, body_bytes),
        seconds=options.max_seconds,
    )


def page(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model to offer. May be repeated. Default: shipped and cached ones."),
    ] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 7860,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Precision = "float32",
    threads: Threads = None,
    download: Download = False,
) -> None:
    """Open a web page that shows, step by step, what adaptation does to an image."""
    need_extra("app", "gradio")
    from grpo_tta.app.run import serve_page
    from grpo_tta.backbones.base import load_backbone
    from grpo_tta.backbones.catalogue import known_models
    from grpo_tta.backbones.hardware import set_threads

    set_threads(threads)
    models = model or (["nano-clip"] if weights is not None else [entry.name for entry in known_models() if entry.cached])
    if weights is not None and len(models) > 1:
        raise UserError("--weights belong to one model; name one --model.")
    load = partial(load_backbone, device=device, download=download, dtype=precision_of(dtype, device, say), weights=weights)
    first = load(models[0])  # a wrong name is refused before the page is up
    if len(models) == 1:  # the page itself offers another model for a photograph
        say_of_nano_clip(models[0])
    serve_page(
        models,
        lambda name: first if name == models[0] else load(name),
        host=host,
        port=port,
        announce=lambda address: typer.echo(f"Open {address} in a browser (Ctrl+C stops it)"),
    )


def need_extra(extra: str, *modules: str) -> None:
    """
    Raises:
        UserError: one of the modules that the extra installs is missing.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise UserError(f'This command needs {missing[0]}; install it with: python -m pip install "grpo-tta[{extra}]"')
