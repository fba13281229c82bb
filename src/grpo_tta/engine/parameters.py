"""Which visual parameters are tuned: collected with their names, never modified (see `per_image` for how)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from grpo_tta.backbones.base import Backbone
from grpo_tta.config.checks import check_at_least
from grpo_tta.errors import UserError

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d)


@final
@dataclass(frozen=True)
class LowRankDelta:
    """A delta B @ A on some output rows of a weight: `A` is `[B, r, in]`, `B` is `[B, rows, r]`."""

    rows: slice
    down: str
    up: str


@final
@dataclass(frozen=True)
class TunableParameters:
    """The tuned parameters of a backbone.

    Attributes:
        first_block: index of the first block that holds one; everything before runs once.
        replaced: name -> frozen parameter that each image gets its own copy of.
        deltas: name of the frozen weight -> (weight, its low-rank deltas).
        shapes: name -> shape of each tuned tensor without the image axis.
    """

    first_block: int
    replaced: Mapping[str, nn.Parameter]
    deltas: Mapping[str, tuple[nn.Parameter, tuple[LowRankDelta, ...]]]
    shapes: Mapping[str, torch.Size]

    def start(self, images: int) -> dict[str, Tensor]:
        """Fresh per-image parameters, float32 leaves with a leading image axis: a copy of the frozen values, and
        low-rank deltas that are zero (A random from a fixed seed, B zero; LoRA, arXiv 2106.09685)."""
        params = {}
        for name, parameter in self.replaced.items():
            params[name] = parameter.detach().float().expand(images, *parameter.shape).clone()
        generator = torch.Generator().manual_seed(0)
        for weight, pairs in self.deltas.values():
            for pair in pairs:
                down, up = self.shapes[pair.down], self.shapes[pair.up]
                a = torch.randn(down, generator=generator) / down[1] ** 0.5
                params[pair.down] = a.to(weight.device).expand(images, *down).clone()
                params[pair.up] = torch.zeros(images, *up, device=weight.device)
        return {name: tensor.requires_grad_() for name, tensor in params.items()}

    def share_of(self, backbone: Backbone) -> float:
        """What a pass from the first tuned block on costs, as a share of a full pass."""
        return 1 - self.first_block / len(backbone.blocks)


Tune = Callable[[Backbone], TunableParameters]
"""A choice of parameters: `NormAffine(...)`, `LowRank(...)` or a function of a user's own."""


@final
@dataclass(frozen=True)
class NormAffine:
    """The affine parameters of the norms in the blocks and the head (Tent, arXiv 2006.10726).

    Attributes:
        last_blocks: only in the last n blocks and the head; None for all blocks, 0 for the head alone, whose step costs next
            to nothing. Where the head holds no norm, as a ResNet's, 0 stands for the last block.
    """

    last_blocks: int | None = None

    def __post_init__(self) -> None:
        if self.last_blocks is not None:
            check_at_least("last_blocks", self.last_blocks, 0)

    def __call__(self, backbone: Backbone) -> TunableParameters:
        """
        Raises:
            UserError: the backbone has no norms or fewer blocks.
        """
        first = _first_block(backbone, self.last_blocks, 0)
        replaced: dict[str, nn.Parameter] = {}
        for i in range(first, len(backbone.blocks)):
            replaced |= _norm_affine(f"blocks.{i}", backbone.blocks[i])
        for name, module in backbone.head_modules.items():
            replaced |= _norm_affine(f"head.{name}", module)
        if not replaced and self.last_blocks == 0 and len(backbone.blocks):
            return NormAffine(1)(backbone)
        if not replaced:
            raise UserError(f"{backbone.name} has no normalisation layers to tune.")
        return TunableParameters(first, replaced, {}, {name: p.shape for name, p in replaced.items()})


@final
@dataclass(frozen=True)
class LowRank:
    """Low-rank deltas on the query and value projections of the attention (LoRA, arXiv 2106.09685).

    Attributes:
        rank: r.
        last_blocks: only in the last n blocks; None for all.
    """

    rank: int = 4
    last_blocks: int | None = 3

    def __post_init__(self) -> None:
        check_at_least("rank", self.rank, 1)
        if self.last_blocks is not None:
            check_at_least("last_blocks", self.last_blocks, 1)

    def __call__(self, backbone: Backbone) -> TunableParameters:
        """
        Raises:
            UserError: the backbone has no attention of this kind or fewer blocks.
        """
        first = _first_block(backbone, self.last_blocks, 1)
        deltas: dict[str, tuple[nn.Parameter, tuple[LowRankDelta, ...]]] = {}
        shapes: dict[str, torch.Size] = {}
        for i in range(first, len(backbone.blocks)):
            for name, parameter in backbone.blocks[i].named_parameters(prefix=f"blocks.{i}"):
                rows, width = parameter.shape if parameter.ndim == 2 else (0, 0)
                pairs = []
                for part, where in _projections(name, rows):
                    pair = LowRankDelta(where, f"{name}[{part}].A", f"{name}[{part}].B")
                    shapes[pair.down] = torch.Size([self.rank, width])
                    shapes[pair.up] = torch.Size([where.stop - where.start, self.rank])
                    pairs.append(pair)
                if pairs:
                    deltas[name] = (parameter, tuple(pairs))
        if not deltas:
            raise UserError(f"{backbone.name} has no attention projections that low-rank deltas fit; tune the norms instead.")
        return TunableParameters(first, {}, deltas, shapes)


def supported_sets(backbone: Backbone) -> tuple[str, ...]:
    """Which of `norm` and `low-rank` this backbone supports; the other is refused."""
    supported = []
    for name, tune in (("norm", NormAffine()), ("low-rank", LowRank(last_blocks=None))):
        with contextlib.suppress(UserError):
            tune(backbone)
            supported.append(name)
    return tuple(supported)


def _first_block(backbone: Backbone, last_blocks: int | None, least: int) -> int:
    n = len(backbone.blocks)
    if last_blocks is None:
        return 0
    if last_blocks > n:
        raise UserError(f"last_blocks is {last_blocks}, but {backbone.name} has {n} blocks; use {least} to {n}.")
    return n - last_blocks


def _norm_affine(place: str, module: nn.Module) -> dict[str, nn.Parameter]:
    found: dict[str, nn.Parameter] = {}
    for name, child in module.named_modules(prefix=place):
        if isinstance(child, _NORMS) or type(child).__name__.lower().endswith("norm"):
            found |= {f"{name}.{leaf}": parameter for leaf, parameter in child.named_parameters(recurse=False)}
    return found


def _projections(name: str, rows: int) -> list[tuple[str, slice]]:
    """The rows of a weight that project to queries and to values: of a fused weight, or of one of its own."""
    leaf = name.rsplit(".", 2)[-2:]
    if leaf[-1] == "in_proj_weight" or leaf == ["qkv", "weight"]:
        return [("q", slice(0, rows // 3)), ("v", slice(2 * (rows // 3), rows))]
    return [("", slice(0, rows))] if leaf in (["q_proj", "weight"], ["v_proj", "weight"]) else []
