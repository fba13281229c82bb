"""Which visual parameters are tuned, and how every image gets its own copy of them without touching the model.

`PerImage` is a context in which the model's own code runs unchanged, except that wherever it reads a tuned parameter,
the images of image b see that image's copy: a norm becomes the norm without affine followed by the image's own affine
(a batch norm keeps its running statistics, in eval mode), a linear layer becomes one batched product or gains a low-rank
delta. The context is local to the thread and to
the `with` block (a `TorchFunctionMode`), so the frozen model is never modified, many images adapt in one pass, and any
library's backbone works without a copy of its code. Reset is dropping the tensors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from grpo_tta.backbones.base import Backbone
from grpo_tta.errors import UserError

TunedSet = Literal["norm", "lora", "blocks"]
TUNED_SETS: tuple[TunedSet, ...] = get_args(TunedSet)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d)


@final
@dataclass(frozen=True)
class LowRank:
    """A delta B @ A on some output rows of a weight: `A` is `[B, r, in]`, `B` is `[B, rows, r]`."""

    rows: slice
    down: str
    up: str


@final
@dataclass(frozen=True)
class Plan:
    """The tuned parameters of a backbone.

    Attributes:
        first_block: index of the first block that holds one; everything before runs once.
        replaced: name -> frozen parameter that each image gets its own copy of.
        deltas: name of the frozen weight -> (weight, its low-rank deltas).
        shapes: name -> shape of each tuned tensor without the image axis.
    """

    first_block: int
    replaced: Mapping[str, nn.Parameter]
    deltas: Mapping[str, tuple[nn.Parameter, tuple[LowRank, ...]]]
    shapes: Mapping[str, torch.Size]

    def start(self, images: int) -> dict[str, Tensor]:
        """Fresh per-image parameters, float32 leaves with a leading image axis: a copy of the frozen values, and
        low-rank deltas that are zero (A random from a fixed seed, B zero; LoRA, arXiv 2106.09685)."""
        tuned = {}
        for name, parameter in self.replaced.items():
            tuned[name] = parameter.detach().float().expand(images, *parameter.shape).clone()
        generator = torch.Generator().manual_seed(0)
        for weight, pairs in self.deltas.values():
            for pair in pairs:
                down, up = self.shapes[pair.down], self.shapes[pair.up]
                a = torch.randn(down, generator=generator) / down[1] ** 0.5
                tuned[pair.down] = a.to(weight.device).expand(images, *down).clone()
                tuned[pair.up] = torch.zeros(images, *up, device=weight.device)
        return {name: tensor.requires_grad_() for name, tensor in tuned.items()}


def make_plan(backbone: Backbone, tuned: TunedSet = "norm", last_blocks: int | None = None, rank: int = 4) -> Plan:
    """Collects the tuned parameters with their names.

    Args:
        backbone: the frozen model.
        tuned: `norm` (affine of every norm in the blocks and the head), `lora` (low-rank deltas on the query and value
            projections of the attention), or `blocks` (every weight of the blocks; not for blocks that hold other weights
            than those of norms, linear layers and attention, such as convolutions and layer scales).
        last_blocks: only the last n blocks (and the head's norms); None for all of them, 0 for the head's norms alone,
            whose step costs next to nothing.
        rank: of the low-rank deltas.

    Raises:
        UserError: the backbone has nothing of the kind or not all of it can be tuned, or last_blocks or rank is out of range.
    """
    n = len(backbone.blocks)
    least = 0 if tuned == "norm" else 1  # only norms are found outside the blocks
    if last_blocks is not None and not least <= last_blocks <= n:
        raise UserError(f"last_blocks is {last_blocks}, but {backbone.name} has {n} blocks; use {least} to {n}.")
    first = 0 if last_blocks is None else n - last_blocks
    if tuned == "lora":
        return _lora_plan(backbone, first, rank)
    if tuned not in ("norm", "blocks"):
        raise UserError(f"Unknown tuned set {tuned!r}; choose norm, lora or blocks.")
    replaced: dict[str, nn.Parameter] = {}
    modules = {f"blocks.{i}": backbone.blocks[i] for i in range(first, n)}
    for prefix, module in modules.items():
        replaced |= _parameters_of(prefix, module, norms_only=tuned == "norm")
        left = [name for name, _ in module.named_parameters(prefix=prefix) if name not in replaced]
        if tuned == "blocks" and left:
            raise UserError(
                f"The blocks of {backbone.name} cannot be tuned whole, since no image can have its own copy of {left[0]}; "
                "tune norm instead."
            )
    if tuned == "norm":
        for name, module in backbone.head_modules.items():
            replaced |= _parameters_of(f"head.{name}", module, norms_only=True)
    if not replaced:
        raise UserError(f"{backbone.name} has no {'normalisation layers' if tuned == 'norm' else 'block weights'} to tune.")
    return Plan(first, replaced, {}, {name: p.shape for name, p in replaced.items()})


def supported_sets(backbone: Backbone) -> tuple[TunedSet, ...]:
    """The tuned sets that this backbone supports; `make_plan` refuses the others."""
    supported = []
    for tuned in TUNED_SETS:
        with contextlib.suppress(UserError):
            make_plan(backbone, tuned)
            supported.append(tuned)
    return tuple(supported)


def _parameters_of(prefix: str, module: nn.Module, *, norms_only: bool) -> dict[str, nn.Parameter]:
    found = {}
    for name, child in module.named_modules(prefix=prefix):
        is_norm = isinstance(child, _NORMS) or type(child).__name__.lower().endswith("norm")
        if norms_only and not is_norm:
            continue
        supported = is_norm or isinstance(child, nn.Linear | nn.MultiheadAttention)
        for leaf, parameter in child.named_parameters(recurse=False):
            if supported:
                found[f"{name}.{leaf}"] = parameter
    return found


def _lora_plan(backbone: Backbone, first: int, rank: int) -> Plan:
    if rank < 1:
        raise UserError(f"The rank of a low-rank delta must be at least 1, not {rank}.")
    deltas: dict[str, tuple[nn.Parameter, tuple[LowRank, ...]]] = {}
    shapes: dict[str, torch.Size] = {}
    for i in range(first, len(backbone.blocks)):
        for name, parameter in backbone.blocks[i].named_parameters(prefix=f"blocks.{i}"):
            leaf = name.rsplit(".", 2)[-2:]
            fused = leaf[-1] == "in_proj_weight" or leaf == ["qkv", "weight"]
            single = leaf in (["q_proj", "weight"], ["v_proj", "weight"])
            if not fused and not single:
                continue
            rows, width = parameter.shape
            third = rows // 3
            parts = {"q": slice(0, third), "v": slice(2 * third, rows)} if fused else {"": slice(0, rows)}
            pairs = []
            for part, where in parts.items():
                pair = LowRank(where, f"{name}[{part}].A", f"{name}[{part}].B")
                shapes[pair.down] = torch.Size([rank, width])
                shapes[pair.up] = torch.Size([where.stop - where.start, rank])
                pairs.append(pair)
            deltas[name] = (parameter, tuple(pairs))
    if not deltas:
        raise UserError(f"{backbone.name} has no attention projections that low-rank deltas fit; tune norm instead.")
    return Plan(first, {}, deltas, shapes)


@final
class PerImage(TorchFunctionMode):
    """Runs the frozen model with per-image parameters. Inside, images come as `[B * M, ...]`, image by image.

    Raises:
        UserError: at its end, where the model has not read one of them in a way that could be seen here.
    """

    def __init__(self, plan: Plan, tuned: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._unread = {id(parameter): name for name, parameter in plan.replaced.items()}
        self._unread |= {id(weight): name for name, (weight, _) in plan.deltas.items()}
        self._images = len(next(iter(tuned.values())))
        self._own = {id(parameter): tuned[name] for name, parameter in plan.replaced.items()}
        self._low_rank = {
            id(weight): [(pair.rows, tuned[pair.down], tuned[pair.up]) for pair in pairs]
            for weight, pairs in plan.deltas.values()
        }
        self._handlers = {
            F.layer_norm: self._layer_norm,
            F.rms_norm: self._rms_norm,
            F.group_norm: self._group_norm,
            F.batch_norm: self._batch_norm,
            F.linear: self._linear,
            F.multi_head_attention_forward: self._attention,
        }

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        handler = self._handlers.get(func, func)
        return handler(*args, **(kwargs or {}))

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        if exc_type is None and self._unread:
            raise UserError(
                f"The model does not read {next(iter(self._unread.values()))} through torch's own norms and linear layers, so "
                "no image can have its own copy of it; tune another set of parameters."
            )

    def _tuned(self, *parameters: Tensor | None) -> bool:
        return any(id(p) in self._own for p in parameters if p is not None)

    def _per_image(self, x: Tensor) -> Tensor:
        """`[B * M, ...]` -> `[B, M, ...]`."""
        return x.unflatten(0, (self._images, -1))

    def _affine(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, trailing: int) -> Tensor:
        """x * weight + bias with the images' own weight and bias; `trailing` axes follow the parameter's own."""
        out = self._per_image(x)
        for parameter, add in ((weight, False), (bias, True)):
            if parameter is None:
                continue
            own = self._own.get(id(parameter))
            self._unread.pop(id(parameter), None)
            value = parameter if own is None else own
            axes = out.ndim - trailing - parameter.ndim
            lead = [1] * axes if own is None else [self._images, *[1] * (axes - 1)]
            value = value.reshape(*lead, *parameter.shape, *[1] * trailing)
            out = out + value if add else out * value
        return out.flatten(0, 1).to(x.dtype)

    def _layer_norm(
        self,
        input: Tensor,
        normalized_shape: list[int],
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
    ) -> Tensor:
        if not self._tuned(weight, bias):
            return F.layer_norm(input, normalized_shape, weight, bias, eps)
        return self._affine(F.layer_norm(input, normalized_shape, None, None, eps), weight, bias, 0)

    def _rms_norm(
        self, input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        if not self._tuned(weight):
            return F.rms_norm(input, normalized_shape, weight, eps)
        return self._affine(F.rms_norm(input, normalized_shape, None, eps), weight, None, 0)

    def _group_norm(
        self, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        if not self._tuned(weight, bias):
            return F.group_norm(input, num_groups, weight, bias, eps)
        return self._affine(F.group_norm(input, num_groups, None, None, eps), weight, bias, input.ndim - 2)

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not self._tuned(weight, bias):
            return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        if training:
            raise UserError("A batch norm that reads its statistics off the batch mixes images; put the model in eval mode.")
        normalised = F.batch_norm(input, running_mean, running_var, None, None, False, momentum, eps)
        return self._affine(normalised, weight, bias, input.ndim - 2)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        low_rank = self._low_rank.get(id(weight), ())
        if not low_rank and not self._tuned(weight, bias):
            return F.linear(input, weight, bias)
        own = self._own.get(id(weight))
        self._unread.pop(id(weight), None)
        x = self._per_image(input)
        if own is None:
            out = F.linear(x, weight)
        else:
            out = torch.einsum("b...i,boi->b...o", x, own.to(x.dtype))
        out = out.flatten(0, 1)
        if bias is not None:
            out = self._affine(out, None, bias, 0)
        for rows, down, up in low_rank:
            # Two thin batched products; merging B @ A into the weight would cost a copy of it for every image.
            delta = torch.einsum("b...r,bor->b...o", torch.einsum("b...i,bri->b...r", x.to(down.dtype), down), up)
            left, middle, right = out[..., : rows.start], out[..., rows], out[..., rows.stop :]
            out = torch.cat([left, middle + delta.flatten(0, 1).to(out.dtype), right], dim=-1)
        return out

    def _attention(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        names = ("embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn",
                 "dropout_p", "out_proj_weight", "out_proj_bias")  # fmt: skip
        given = dict(zip(names, args, strict=False)) | kwargs
        in_w, in_b = given["in_proj_weight"], given["in_proj_bias"]
        out_w, out_b = given["out_proj_weight"], given["out_proj_bias"]
        if in_w is None or not (self._tuned(in_w, in_b, out_w, out_b) or id(in_w) in self._low_rank):
            # Handed over turned, token axis first: in bfloat16 a product of such a tensor takes nine times as long.
            turned = {id(x): x.contiguous() for x in (query, key, value)}  # what is one tensor stays one
            query, key, value = (turned[id(x)] for x in (query, key, value))
            return F.multi_head_attention_forward(query, key, value, *args, **kwargs)
        masked = any(given.get(k) is not None for k in ("bias_k", "bias_v", "key_padding_mask", "attn_mask"))
        if key is not value or query.shape[1:] != key.shape[1:] or masked or query.ndim != 3:
            raise UserError("Only plain self-attention can carry per-image weights; tune norm instead.")
        # torch hands over [T, N, W]; the images lie on the second axis.
        T, N, W = query.shape
        heads = given["num_heads"]

        def project(x: Tensor) -> tuple[Tensor, ...]:
            qkv = self._linear(x.transpose(0, 1), in_w, in_b)  # [N, T, 3W]
            return qkv.unflatten(-1, (3, heads, W // heads)).permute(2, 0, 3, 1, 4).unbind(0)

        q, k, v = project(key)
        if query is not key:  # fewer tokens ask than are read (`ClassTokenBlock`)
            q = project(query)[0]
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(N, T, W)
        return self._linear(mixed, out_w, out_b).transpose(0, 1), None
