"""float32 products by oneDNN on the processors where torch's own are the slower ones.

torch multiplies float32 matrices by Intel's MKL. On processors of other makers MKL leaves AVX-512 unused, and a product takes
twice as long as it need (docs/cost.md). oneDNN, which torch ships as well and uses for bfloat16, does use it. The numbers are
float32 as before and equal up to rounding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.hardware import mkl_is_slow

Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""As `torch.nn.functional.linear`."""
_MANY = 1024
"""Rows from which on it pays to lay a turned weight out anew before the product: that takes as long as one of 100 rows."""


def linear_for(device: torch.device, dtype: torch.dtype) -> Linear:
    """`torch.nn.functional.linear`, or the same by oneDNN where that is faster."""
    return linear if device.type == "cpu" and dtype == torch.float32 and mkl_is_slow() else F.linear


def frozen_products(backbone: Backbone) -> contextlib.AbstractContextManager[object]:
    """Inside, the frozen model's linear layers are multiplied in the faster way."""
    chosen = linear_for(backbone.device, backbone.dtype)
    return contextlib.nullcontext() if chosen is F.linear else _Products(chosen)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`[..., I]`, `[O, I]`, `[O]` -> `[..., O]` by oneDNN; a weight that is being trained and other precisions by torch."""
    trained = torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad))
    plain = x.dtype == weight.dtype == torch.float32 and x.ndim > 1 and x.numel() > 0
    if trained or not plain:
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and x.requires_grad:
        return cast(Tensor, _Linear.apply(x, weight, bias))
    return _product(x, weight, bias)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return made


@final
class _Linear(torch.autograd.Function):
    """The product with a frozen weight, which also goes back by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        many = gradient.numel() >= _MANY * gradient.shape[-1]
        return _product(gradient, weight.T.contiguous() if many else weight.T, None), None, None


def self_attention(
    product: Linear, query: Tensor, key: Tensor, value: Tensor, given: Mapping[str, Any], *, whole: bool = False
) -> Tensor | None:
    """Plain self-attention with `product` in place of the linear layers; None where it is of another kind.

    Args:
        query, key, value: `[T, N, W]`, as torch hands them over. Fewer tokens may ask than are read.
        given: the other arguments of `torch.nn.functional.multi_head_attention_forward` by name.
        whole: never cut the input projection in parts, since `product` knows it by its identity, and the images come first.

    Returns:
        `[T, N, W]`.
    """
    masked = any(given.get(k) is not None for k in ("bias_k", "bias_v", "key_padding_mask", "attn_mask"))
    unlike = key is not value or query.shape[1:] != key.shape[1:] or query.ndim != 3 or given["in_proj_weight"] is None
    if masked or unlike or given.get("add_zero_attn"):
        return None
    W, heads = query.shape[-1], given["num_heads"]

    weight, bias = given["in_proj_weight"], given["in_proj_bias"]

    def project(x: Tensor, rows: slice) -> tuple[Tensor, ...]:
        part = (weight, bias) if whole else (weight[rows], None if bias is None else bias[rows])
        as_it_lies = x.is_contiguous() and not whole
        made = product(x, *part) if as_it_lies else product(x.transpose(0, 1), *part).transpose(0, 1)
        # [T, N, 3W], or [T, N, 2W] or [T, N, W] of a part
        return made.unflatten(-1, (-1, heads, W // heads)).permute(2, 1, 3, 0, 4).unbind(0)

    if query is key:
        q, k, v = project(key, slice(None))
    else:
        q, k, v = project(query, slice(W))[0], *project(key, slice(W, None))[-2:]
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [N, T, W]
    return product(mixed, given["out_proj_weight"], given["out_proj_bias"]).transpose(0, 1)


ATTENTION = ("embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias", "bias_k", "bias_v", "add_zero_attn",
             "dropout_p", "out_proj_weight", "out_proj_bias")  # fmt: skip
"""The arguments of `torch.nn.functional.multi_head_attention_forward` behind query, key and value."""


@final
class _Products(TorchFunctionMode):
    """Local to the thread and to the `with` block, as `per_image.PerImage`. Of a frozen model in eval mode."""

    def __init__(self, product: Linear) -> None:
        super().__init__()
        self._product = product

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.linear:
            return self._product(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            query, key, value, *others = args
            given = dict(zip(ATTENTION, others, strict=False)) | kwargs
            if not given.get("need_weights", True):
                mixed = self_attention(self._product, query, key, value, given)
                if mixed is not None:
                    return mixed, None
        return func(*args, **kwargs)
