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

from grpo_tta.engine.onednn import ATTENTION, linear_for, self_attention
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
        frozen = [*tunable.replaced.values(), *(weight for weight, _ in tunable.deltas.values())][0]
        self._product = linear_for(frozen.device, frozen.dtype)
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

    def _common(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None] | None:
        """Weight and bias that all views read, for torch's own norm: the frozen ones, or those of the only image.

        None where every image has its own, or in another precision than the input.
        """
        own = [None if p is None else self._own.get(id(p)) for p in (weight, bias)]
        if any(value is not None and (self._images > 1 or value.dtype != x.dtype) for value in own):
            return None
        for p in (weight, bias):
            self._unread.pop(id(p), None)
        return weight if own[0] is None else own[0][0], bias if own[1] is None else own[1][0]

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
        if (common := self._common(input, weight, bias)) is not None:
            return F.layer_norm(input, normalized_shape, common[0], common[1], eps)
        return self._affine(F.layer_norm(input, normalized_shape, None, None, eps), weight, bias, 0)

    def _rms_norm(
        self, input: Tensor, normalized_shape: list[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        if (common := self._common(input, weight)) is not None:
            return F.rms_norm(input, normalized_shape, common[0], eps)
        return self._affine(F.rms_norm(input, normalized_shape, None, eps), weight, None, 0)

    def _group_norm(
        self, input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
    ) -> Tensor:
        if (common := self._common(input, weight, bias)) is not None:
            return F.group_norm(input, num_groups, common[0], common[1], eps)
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
        if training and any(id(p) in self._own for p in (weight, bias)):
            raise UserError("A batch norm that reads its statistics off the batch mixes images; put the model in eval mode.")
        if (common := self._common(input, weight, bias)) is not None:
            return F.batch_norm(input, running_mean, running_var, common[0], common[1], training, momentum, eps)
        normalised = F.batch_norm(input, running_mean, running_var, None, None, False, momentum, eps)
        return self._affine(normalised, weight, bias, input.ndim - 2)

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = self._product(input, weight, bias)
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
        given = dict(zip(ATTENTION, args, strict=False)) | kwargs
        low_rank = id(given["in_proj_weight"]) in self._low_rank
        if low_rank or (self._product is not F.linear and not given.get("need_weights", True)):
            mixed = self_attention(self._linear, query, key, value, given, whole=low_rank)
            if mixed is not None:
                return mixed, None
            if low_rank:
                raise UserError("Only plain self-attention can carry low-rank deltas per image; tune the norms instead.")
        # Handed over turned, token axis first: in bfloat16 a product of such a tensor takes nine times as long.
        turned = {id(x): x.contiguous() for x in (query, key, value)}  # what is one tensor stays one
        query, key, value = (turned[id(x)] for x in (query, key, value))
        return F.multi_head_attention_forward(query, key, value, *args, **kwargs)
