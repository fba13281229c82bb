"""Which methods a model can run, before any image is read."""

from __future__ import annotations

from collections.abc import Sequence

from grpo_tta.backbones.base import Backbone, HasClassRows
from grpo_tta.engine.interface import Method
from grpo_tta.errors import UserError


def fitting_methods(methods: Sequence[Method], backbone: Backbone, *, everything: bool) -> tuple[list[Method], list[str]]:
    """Methods that this model can run.

    Args:
        everything: the user asked for all methods, and those that do not fit are left out.

    Returns:
        The methods, and a sentence for each that was left out.

    Raises:
        UserError: a method that was named does not fit.
    """
    fitting, left_out = [], []
    for method in methods:
        why = why_not(method, backbone)
        if why is None:
            fitting.append(method)
        elif everything:
            left_out.append(f"{method.name} is left out: {why}")
        else:
            raise UserError(f"{method.name} cannot run: {why}")
    return fitting, left_out


def why_not(method: Method, backbone: Backbone) -> str | None:
    """Why a model cannot run a method, in a sentence; None where it can."""
    if method.reads_text and isinstance(backbone, HasClassRows):
        return f"it works with text features, and {backbone.name} is an image classifier that reads no text."
    try:
        method.cached_blocks(backbone)
    except UserError as error:
        return str(error)
    return None
