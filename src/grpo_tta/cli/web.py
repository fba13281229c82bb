"""The commands `serve` (HTTP service) and `app` (web page). Heavy imports happen inside them, as in `cli`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from grpo_tta.cli.options import Device, Download, Model, Preset, Seed, Templates, split_list
from grpo_tta.errors import UserError

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the network.")]
MIB = 2**20


def serve(
    labels: Annotated[str, typer.Option(help="Comma-separated class names, at least two; requests may bring their own.")],
    model: Model = "nano-clip",
    template: Templates = None,
    preset: Preset = "default",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 8000,
    batch: Annotated[int, typer.Option(help="Most images adapted in one pass.")] = 16,
    max_body_mib: Annotated[float, typer.Option(help="Length of one request.")] = 32,
    max_image_mib: Annotated[float, typer.Option(help="Length of one encoded image.")] = 8,
    max_pixels: Annotated[int, typer.Option(help="Pixels of one image.")] = 2**24,
    max_images: Annotated[int, typer.Option(help="Images of one request.")] = 16,
    max_labels: Annotated[int, typer.Option(help="Labels that a request may bring.")] = 100,
    max_queue: Annotated[int, typer.Option(help="Images accepted and not answered yet.")] = 256,
    max_seconds: Annotated[float, typer.Option(help="Time of one request.")] = 30.0,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads of the model; default: as many as torch takes.")] = None,
    download: Download = False,
) -> None:
    """Serve predictions over HTTP: POST /v1/classify, GET /healthz, /metrics and /openapi.json."""
    need_extra("serve", "fastapi", "uvicorn", "prometheus_client", "python_multipart")
    import torch

    from grpo_tta import GRPOTTA
    from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
    from grpo_tta.service.limits import Limits
    from grpo_tta.service.run import serve as run

    limits = Limits(
        body_bytes=round(max_body_mib * MIB),
        image_bytes=round(max_image_mib * MIB),
        pixels=max_pixels,
        images=max_images,
        labels=max_labels,
        queue=max_queue,
        queue_pixels=max(Limits.queue_pixels, max_images * max_pixels),
        queue_bytes=max(Limits.queue_bytes, round(max_body_mib * MIB)),
        seconds=max_seconds,
    )
    if threads is not None:
        if threads < 1:
            raise UserError(f"{threads} threads cannot work; set --threads to at least 1.")
        torch.set_num_threads(threads)
    classifier = GRPOTTA(
        model,
        split_list(labels),
        templates=template or DEFAULT_TEMPLATE,
        settings=preset,
        seed=seed,
        device=device,
        batch=batch,
        download=download,
    )

    def announce(address: str) -> None:
        typer.echo(f"Serving {model} on {address} (POST {address}/v1/classify; Ctrl+C stops it)")

    run(classifier, host=host, port=port, limits=limits, batch=batch, announce=announce)


def page(
    model: Annotated[list[str] | None, typer.Option(help="Model to offer; may be repeated. Default: nano-clip.")] = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any free one.")] = 7860,
    device: Device = "cpu",
    download: Download = False,
) -> None:
    """Open a web page that shows, step by step, what adaptation does to an image."""
    need_extra("app", "gradio")
    from grpo_tta.app.run import serve_page
    from grpo_tta.backbones.base import load_backbone

    models = model or ["nano-clip"]
    first = load_backbone(models[0], device=device, download=download)  # a wrong name is told before the page is up
    serve_page(
        models,
        lambda name: first if name == models[0] else load_backbone(name, device=device, download=download),
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
