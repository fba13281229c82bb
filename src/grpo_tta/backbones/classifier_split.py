"""A classifier's network cut into stem, blocks and tail. A cut is believed only where it gives the network's own logits.

The tail ends in what enters the last linear layer, so that the logits are exactly that layer's of its output. Transformers
are cut by hand. Everything else is tried as a chain of its children, with the children of `blocks`, `stages`, `layer1`,
`features` and the like as blocks. What is no such chain stays whole, as one block.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torchvision.models import VisionTransformer

from grpo_tta.backbones.blocks import BoundBlock
from grpo_tta.errors import UserError

_HOLDS_BLOCKS = re.compile(r"blocks|stages|layers?|features|stage_?\d+|layer_?\d+|s\d+|dense_?block\d*")
_FLAT = (nn.Linear, nn.Dropout)
"""Modules that read rows of features, for which some networks flatten a map without a module of its own."""


class ClassifierSplit(Protocol):
    """
    Attributes:
        blocks: in order.
        tail_modules: modules that the tail runs, by name.
        linear: the layer of the classes.
    """

    blocks: list[nn.Module]
    tail_modules: dict[str, nn.Module]
    linear: nn.Linear

    def stem(self, pixels: Tensor) -> Tensor:
        """Pixels `[N, 3, S, S]` -> tokens that enter the first block."""
        ...

    def tail(self, tokens: Tensor) -> Tensor:
        """Tokens of the last block -> features `[N, D]` that enter the layer of the classes."""
        ...


@torch.no_grad()
def split_classifier(name: str, model: nn.Module, pixels: Tensor) -> ClassifierSplit:
    """
    Args:
        name: as the user called it.
        model: in eval mode, from pixels to logits.
        pixels: any two images `[2, 3, S, S]`, on which a cut is checked.

    Raises:
        UserError: the network does not read images of this size, or its logits are not those of a linear layer.
    """
    for module in model.modules():
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]  # tokens are kept, and read again after a step
    try:
        with _Linears() as seen:
            logits = model(pixels)
    except (RuntimeError, AssertionError, ValueError) as error:
        S = pixels.shape[-1]
        raise UserError(f"{name}: the network does not read images of {S} x {S} pixels ({_first(error)}).") from None
    linear = _layer_of_the_classes(name, model, seen, logits)
    for cut in _ways(model, linear, pixels):
        if cut is not None and _holds(cut, model, pixels, logits):
            return cut
    return _Whole(model, linear)


def _layer_of_the_classes(name: str, model: nn.Module, seen: _Linears, logits: object) -> nn.Linear:
    if seen.calls and seen.calls[-1].output is logits:
        weight = seen.calls[-1].weight
        for module in model.modules():
            if isinstance(module, nn.Linear) and module.weight is weight:
                return module
    raise UserError(
        f"{name}: its logits are not those of one linear layer, whose rows would be the classes; use another model."
    )


def _ways(model: nn.Module, linear: nn.Linear, pixels: Tensor) -> Iterator[ClassifierSplit | None]:
    """Ways to cut this network, the best first."""
    yield _by_hand(model, linear)
    with contextlib.suppress(RuntimeError, NotImplementedError, TypeError, ValueError):  # a chain that the network is not
        yield _Chain(model, linear, pixels)


def _holds(cut: ClassifierSplit, model: nn.Module, pixels: Tensor, logits: Tensor) -> bool:
    """Whether a cut gives the network's own logits, reads what the network reads, and never writes into its input."""
    try:
        with _Reads() as own:
            model(pixels)
        with _Reads() as read:
            tokens = cut.stem(pixels)
            for block in cut.blocks:
                before = tokens.clone()
                after = block(tokens)
                if not torch.equal(before, tokens):
                    return False
                tokens = after
            found = cut.linear(cut.tail(tokens))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return False
    tolerance = 1e-4 if logits.dtype == torch.float32 else 1e-1
    near = found.shape == logits.shape and float((found - logits).abs().max()) <= tolerance * float(logits.abs().max())
    return near and own.found <= read.found


@final
class _Whole:
    """A network that is not cut: one block."""

    def __init__(self, model: nn.Module, linear: nn.Linear) -> None:
        self.blocks: list[nn.Module] = [WholeNetwork(model, linear)]
        self.tail_modules: dict[str, nn.Module] = {}
        self.linear = linear

    def stem(self, pixels: Tensor) -> Tensor:
        return pixels

    def tail(self, tokens: Tensor) -> Tensor:
        return tokens


@final
class WholeNetwork(nn.Module):
    """From pixels to what enters the layer of the classes: `[N, 3, S, S]` -> `[N, D]`."""

    def __init__(self, model: nn.Module, linear: nn.Linear) -> None:
        super().__init__()
        self.network = model
        self._linear = [linear]  # in a list, for it is a child of the network already

    def forward(self, pixels: Tensor) -> Tensor:
        return _entering(self._linear[0], lambda: self.network(pixels))


def _by_hand(model: nn.Module, linear: nn.Linear) -> ClassifierSplit | None:
    # A subclass with a forward of its own would be cut wrongly.
    plain = TimmVisionTransformer.forward_features
    if isinstance(model, TimmVisionTransformer) and type(model).forward_features is plain:
        return _TimmVit(model, linear)
    if type(model) is Eva:
        return _TimmEva(model, linear)
    if type(model) is VisionTransformer:
        return _TorchvisionVit(model, linear)
    return None


@final
class _TimmVit:
    """timm's VisionTransformer."""

    def __init__(self, model: Any, linear: nn.Linear) -> None:
        self._model, self.linear = model, linear
        self.blocks: list[nn.Module] = list(model.blocks)
        self.tail_modules = _outside(model, self.blocks)

    def stem(self, pixels: Tensor) -> Tensor:
        model = self._model
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(pixels))))

    def tail(self, tokens: Tensor) -> Tensor:
        return _entering(self.linear, lambda: self._model.forward_head(self._model.norm(tokens)))


@final
class _TimmEva:
    """timm's Eva. Rotary positions depend on the grid alone, so they are fixed here."""

    def __init__(self, model: Any, linear: nn.Linear) -> None:
        self._model, self.linear = model, linear
        weight = model.patch_embed.proj.weight
        blank = torch.zeros(1, 3, *model.patch_embed.img_size, dtype=weight.dtype, device=weight.device)
        _, rope = model._pos_embed(model.patch_embed(blank))
        own = model.rope_mixed and rope is not None  # rotations of its own for every block
        self.blocks: list[nn.Module] = [
            BoundBlock(block, rope=rope[i] if own else rope) for i, block in enumerate(model.blocks)
        ]
        self.tail_modules = _outside(model, self.blocks)

    def stem(self, pixels: Tensor) -> Tensor:
        return self._model.norm_pre(self._model._pos_embed(self._model.patch_embed(pixels))[0])

    def tail(self, tokens: Tensor) -> Tensor:
        return _entering(self.linear, lambda: self._model.forward_head(self._model.norm(tokens)))


@final
class _TorchvisionVit:
    """torchvision's VisionTransformer."""

    def __init__(self, model: Any, linear: nn.Linear) -> None:
        self._model, self.linear = model, linear
        self.blocks: list[nn.Module] = list(model.encoder.layers)
        self.tail_modules: dict[str, nn.Module] = {"ln": model.encoder.ln, "heads": model.heads}

    def stem(self, pixels: Tensor) -> Tensor:
        tokens = self._model._process_input(pixels)
        tokens = torch.cat([self._model.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self._model.encoder.dropout(tokens + self._model.encoder.pos_embedding)

    def tail(self, tokens: Tensor) -> Tensor:
        return _entering(self.linear, lambda: self._model.heads(self._model.encoder.ln(tokens)[:, 0]))


@final
class _Chain:
    """A network that runs its children one after the other."""

    def __init__(self, model: Any, linear: nn.Linear, pixels: Tensor) -> None:
        """
        Raises:
            ValueError: it is no such network.
        """
        self._model, self.linear = model, linear
        children = list(model.named_children())
        places = [i for i, (name, _) in enumerate(children) if _HOLDS_BLOCKS.fullmatch(name)]
        if not places:
            raise ValueError("no child holds blocks")
        first, last = places[0], places[-1] + 1
        self._before, self._after = [child for _, child in children[:first]], [child for _, child in children[last:]]
        self.blocks: list[nn.Module] = []
        tokens = self.stem(pixels)
        for _, child in children[first:last]:
            units = _units(child, tokens)
            self.blocks += units
            tokens = _run(units, tokens)
        self.blocks = _each_with_a_norm(self.blocks)
        self._has_head = hasattr(model, "forward_features") and hasattr(model, "forward_head")
        if self._has_head:  # as timm's: what of the rest belongs to the features, the head runs the others
            wanted = model.forward_features(pixels)
            counts = (n for n in range(len(self._after) + 1) if _same(_run(self._after[:n], tokens), wanted))
            if (count := next(counts, None)) is None:
                raise ValueError("no chain of its children gives the features")
            self._after = self._after[:count]
        self.tail_modules = _outside(model, [*self._before, *self.blocks])

    def stem(self, pixels: Tensor) -> Tensor:
        return _run(self._before, pixels)

    def tail(self, tokens: Tensor) -> Tensor:
        if self._has_head:
            return _entering(self.linear, lambda: self._model.forward_head(_run(self._after, tokens)))
        return _entering(self.linear, lambda: _run(self._after, tokens))


def _outside(model: nn.Module, others: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """The model's children that share no module with others."""
    inside = {id(module) for other in others for module in other.modules()}
    return {name: child for name, child in model.named_children() if not any(id(m) in inside for m in child.modules())}


def _units(module: nn.Module, tokens: Tensor) -> list[nn.Module]:
    """The blocks that a module is made of: those of a sequence, those of a stage that is one in effect, or itself."""
    if type(module) not in (nn.Sequential, nn.ModuleList) and not any(
        _HOLDS_BLOCKS.fullmatch(name) for name, _ in module.named_children()
    ):
        return [module]
    x, units = tokens, []
    try:
        for child in module.children():
            units += _units(child, x)
            x = child(x)
        units = [unit for unit in units if not isinstance(unit, nn.Identity)]
        return units if units and (type(module) is nn.ModuleList or _same(x, module(tokens))) else [module]
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # its children take other arguments
        return [module]


def _each_with_a_norm(units: Sequence[nn.Module]) -> list[nn.Module]:
    """What holds no norm goes with what precedes it, so that there is something to tune in every block."""
    groups: list[list[nn.Module]] = []
    for unit in units:
        if groups and not (_has_norm(unit) and any(map(_has_norm, groups[-1]))):
            groups[-1].append(unit)
        else:
            groups.append([unit])
    return [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]


def _has_norm(module: nn.Module) -> bool:
    return any("norm" in type(child).__name__.lower() for child in module.modules())


def _run(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    for module in modules:
        first = next((m for m in module.modules() if not isinstance(m, nn.Sequential)), module)
        if isinstance(first, _FLAT) and x.ndim == 4:
            x = x.flatten(1)
        x = module(x)
    return x


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@final
@dataclass(frozen=True)
class _Call:
    weight: Tensor
    input: Tensor
    output: Tensor


@final
class _Linears(TorchFunctionMode):
    """Watches the linear layers that are run inside; local to the thread and to the `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is F.linear and len(args) > 1:
            self.calls.append(_Call(args[1], args[0], out))
        return out


def _entering(linear: nn.Linear, run: Callable[[], object]) -> Tensor:
    """What enters this layer when `run` runs; carries gradients. The layer itself is not run."""
    with _Entering(linear.weight) as entering:
        run()
    return entering.found[-1]


@final
class _Entering(TorchFunctionMode):
    """Inside, the linear layer of this weight hands its input on, which is kept."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._weight = weight
        self.found: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.linear and len(args) > 1 and args[1] is self._weight:
            self.found.append(args[0])
            return args[0]
        return func(*args, **(kwargs or {}))


@final
class _Reads(TorchFunctionMode):
    """Notes which parameters are read inside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def _note(self, x: Any) -> None:
        if isinstance(x, nn.Parameter):
            self.found.add(id(x))

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tree_map(self._note, (args, kwargs))
        return func(*args, **(kwargs or {}))


def read_by(run: Callable[[], object], modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Those of the modules of which `run` reads a parameter."""
    with _Reads() as read:
        run()
    return {name: module for name, module in modules.items() if any(id(p) in read.found for p in module.parameters())}
