"""How every image gets its own copy of the tuned parameters without touching the model.

`PerImage` is a context in which the model's own code runs unchanged, except that wherever it reads a tuned parameter,
the views of image b see that image's copy: a norm becomes the norm without affine followed by the image's own affine
(a batch norm keeps its running statistics, in eval mode), and a linear layer gains the image's own low-rank delta. The context
is local to the thread and to the `with` block (a `TorchFunctionMode`), so the frozen model is never modified, many images
adapt in one pass, and any library's backbone works without a copy of its code. Reset is dropping the tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from grpo_tta.engine.parameters import TunableParameters
from grpo_tta.errors import UserError


@final
class PerImage(TorchFunctionMode):
    """Runs the frozen model with per-image parameters. Inside, views come as `[B * M, ...]`, image by image.

    Raises:
        UserError: at its end, where the model has not read one of them in a way that could be seen here.
    """

    def __init__(self, tunable: TunableParameters, params: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._unread = {id(parameter): name for name, parameter in tunable.replaced.items()}
        self._unread |= {id(weight): name for name, (weight, _) in tunable.deltas.items()}
        self._images = len(next(iter(params.values())))
        self._own = {id(parameter): params[name] for name, parameter in tunable.replaced.items()}
        self._low_rank = {
            id(weight): [(pair.rows, params[pair.down], params[pair.up]) for pair in pairs]
            for weight, pairs in tunable.deltas.values()
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
        out = F.linear(input, weight, bias)
        if not (deltas := self._low_rank.get(id(weight), ())):
            return out
        self._unread.pop(id(weight), None)
        x = self._per_image(input)
        for rows, down, up in deltas:
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
        if in_w is None or id(in_w) not in self._low_rank:
            # Handed over turned, token axis first: in bfloat16 a product of such a tensor takes nine times as long.
            turned = {id(x): x.contiguous() for x in (query, key, value)}  # what is one tensor stays one
            query, key, value = (turned[id(x)] for x in (query, key, value))
            return F.multi_head_attention_forward(query, key, value, *args, **kwargs)
        masked = any(given.get(k) is not None for k in ("bias_k", "bias_v", "key_padding_mask", "attn_mask"))
        if key is not value or query.shape[1:] != key.shape[1:] or masked or query.ndim != 3:
            raise UserError("Only plain self-attention can carry low-rank deltas per image; tune the norms instead.")
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
