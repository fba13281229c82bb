"""What backbones are made of: visual encoders split into stem, blocks and head, blocks that take tokens alone, own embeddings.

Each encoder of open_clip is split by a class of its own. It runs the library's own modules in the library's own order. Only
the loop over the blocks is ours, and what nobody reads is left out (`ClassTokenBlock`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, final

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Split(Protocol):
    """See `grpo_tta.backbones.base.Backbone`."""

    blocks: list[nn.Module]
    head_modules: dict[str, nn.Module]

    def stem(self, pixels: Tensor) -> Tensor: ...

    def head(self, tokens: Tensor) -> Tensor: ...


def split(visual: nn.Module) -> Split | None:
    """A visual encoder as stem, blocks and head; None where it is of a kind that is not known."""
    if isinstance(visual, VisionTransformer):
        return _PlainVit(visual)
    if isinstance(visual, ModifiedResNet):
        return _ResNet(visual)
    trunk = visual.trunk if isinstance(visual, TimmModel) else None
    # A subclass with a forward of its own would be split wrongly and still run.
    if isinstance(trunk, TimmVisionTransformer) and type(trunk).forward_features is TimmVisionTransformer.forward_features:
        return _TimmVit(visual)
    if type(trunk) is Eva:
        return _TimmEva(visual)
    if type(trunk) is FastVit:
        return _TimmFastVit(visual)
    if type(trunk) is ConvNeXt:
        return _TimmConvNext(visual)
    return None


def _present(**modules: nn.Module | None) -> dict[str, nn.Module]:
    return {name: module for name, module in modules.items() if module is not None and not isinstance(module, nn.Identity)}


@final
class _PlainVit:
    """open_clip's own VisionTransformer (OpenAI, LAION, DataComp, DFN, MetaCLIP, nano-clip)."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.blocks: list[nn.Module] = list(visual.transformer.resblocks)
        if reads_class_token(visual):  # what the last block makes of the other tokens nobody reads
            self.blocks[-1] = ClassTokenBlock(visual.transformer.resblocks[-1])
        # Of an attentional pooler (CoCa) only what reads an image's tokens; its queries are the same for all images.
        pool = visual.attn_pool
        self.head_modules = _present(ln_post=visual.ln_post, **({} if pool is None else {"attn_pool.ln_k": pool.ln_k}))

    def stem(self, pixels: Tensor) -> Tensor:
        return self._visual._embeds(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        pooled, _ = self._visual._pool(tokens)
        return pooled if self._visual.proj is None else pooled @ self._visual.proj


@final
class _ResNet:
    """CLIP's ResNets: the bottlenecks are the blocks; their maps shrink from stage to stage. Its norms are BatchNorms."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        self.blocks: list[nn.Module] = [block for stage in stages for block in stage]
        self.head_modules = _present(attnpool=visual.attnpool)

    def stem(self, pixels: Tensor) -> Tensor:
        return self._visual.stem(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        return self._visual.attnpool(tokens)


@final
class _TimmVit:
    """timm's VisionTransformer (SigLIP, SigLIP 2, MobileCLIP-B with its convolutional stem, ViTamin)."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        self.blocks: list[nn.Module] = list(trunk.blocks)
        self.head_modules = _present(norm=trunk.norm, attn_pool=trunk.attn_pool, fc_norm=trunk.fc_norm)

    def stem(self, pixels: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.norm(tokens)))


@final
class _TimmEva:
    """timm's Eva (EVA-01, EVA-02, Perception Encoder). Rotary positions depend on the grid alone, so they are fixed here."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        weight = trunk.patch_embed.proj.weight
        with torch.no_grad():
            blank = torch.zeros(1, 3, *trunk.patch_embed.img_size, dtype=weight.dtype, device=weight.device)
            _, rope = trunk._pos_embed(trunk.patch_embed(blank))
        own = trunk.rope_mixed and rope is not None  # rotations of its own for every block
        self.blocks: list[nn.Module] = [
            BoundBlock(block, rope=rope[i] if own else rope) for i, block in enumerate(trunk.blocks)
        ]
        self.head_modules = _present(norm=trunk.norm, attn_pool=trunk.attn_pool, fc_norm=trunk.fc_norm)

    def stem(self, pixels: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels))[0])

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.norm(tokens)))


@final
class _TimmFastVit:
    """timm's FastViT (MobileCLIP S0 to S4): downsampling, positions and mixers of all stages are the blocks."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        units = [unit for stage in trunk.stages for unit in (stage.downsample, stage.pos_emb, *stage.blocks)]
        self.blocks: list[nn.Module] = [unit for unit in units if not isinstance(unit, nn.Identity)]
        self.head_modules = _present(final_conv=trunk.final_conv, head=trunk.head)

    def stem(self, pixels: Tensor) -> Tensor:
        return self._visual.trunk.stem(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.final_conv(tokens)))


@final
class _TimmConvNext:
    """timm's ConvNeXt (LAION's convolutional CLIPs): downsampling and blocks of all stages are the blocks."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        units = [unit for stage in trunk.stages for unit in (stage.downsample, *stage.blocks)]
        self.blocks: list[nn.Module] = [unit for unit in units if not isinstance(unit, nn.Identity)]
        self.head_modules = _present(norm_pre=trunk.norm_pre, head=trunk.head)

    def stem(self, pixels: Tensor) -> Tensor:
        return self._visual.trunk.stem(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.norm_pre(tokens)))


@final
class ClassTokenBlock(nn.Module):
    """open_clip's block for the class token only: `[N, T, W]` -> `[N, 1, W]`.

    The class token attends to all tokens, but only its own query, output projection and MLP are computed, which leaves
    the keys and values as the only work on the other tokens: about a sixth of the block. Same modules, same order, same
    parameter names as the block that it stands for.
    """

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        object.__setattr__(self, "_block", block)  # not as a child: that would name every parameter twice

    def forward(self, tokens: Tensor) -> Tensor:
        block: Any = self._block
        # torch's attention turns the token axis to the front; a product of a tensor that is only turned, not laid out anew,
        # takes nine times as long in bfloat16.
        normed = block.ln_1(tokens).transpose(0, 1).contiguous().transpose(0, 1)
        x = tokens[:, :1] + block.ls_1(block.attention(q_x=normed[:, :1], k_x=normed, v_x=normed))
        return x + block.ls_2(block.mlp(block.ln_2(x)))


def reads_class_token(visual: Any) -> bool:
    """Whether the head of open_clip's VisionTransformer reads the class token alone, after a block of the plain kind."""
    last = visual.transformer.resblocks[-1]
    return (
        type(last) is ResidualAttentionBlock
        and not hasattr(last, "ln_1_kv")
        and last.attn.batch_first
        and visual.attn_pool is None
        and visual.pool_type == "tok"
    )


@final
class BoundBlock(nn.Module):
    """Calls `block(tokens, **fixed)`, so that a backbone's blocks can be run one after the other with tokens alone."""

    def __init__(self, block: nn.Module, **fixed: Any) -> None:
        """
        Args:
            fixed: keyword arguments of every call, the same for all images.
        """
        super().__init__()
        self.block = block
        self._fixed = fixed

    def forward(self, tokens: Tensor) -> Tensor:
        return self.block(tokens, **self._fixed)


@final
class EmbeddedTokens(TorchFunctionMode):
    """Inside, looking tokens up in `table` returns `embeddings` `[N, L, W]`, whatever the tokens are.

    Local to the thread and to the `with` block, as `grpo_tta.engine.parameters.PerImage`.
    """

    def __init__(self, table: Tensor, embeddings: Tensor) -> None:
        super().__init__()
        self._table, self._embeddings = table, embeddings

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # torch hands either name over, depending on whether the functional form checks for overrides itself.
        if func in (torch.embedding, F.embedding) and any(arg is self._table for arg in args):
            return self._embeddings.to(self._table.dtype)
        return func(*args, **(kwargs or {}))
