"""How the visual encoders of open_clip are cut into prefix, blocks and head, one class per kind of encoder.

Each cut runs the library's own modules in the library's own order; only the loop over the blocks is ours, and what
nobody reads is left out (`ClassTokenBlock`).
"""

from __future__ import annotations

from typing import Any, Protocol, final

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn

from grpo_tta.backbones.bound_block import BoundBlock
from grpo_tta.backbones.class_token_block import ClassTokenBlock, reads_class_token


class Cut(Protocol):
    """See `grpo_tta.backbones.base.Backbone`."""

    blocks: list[nn.Module]
    head_modules: dict[str, nn.Module]

    def prefix(self, pixels: Tensor) -> Tensor: ...

    def head(self, tokens: Tensor) -> Tensor: ...


def cut(visual: nn.Module) -> Cut | None:
    """The cut of a visual encoder, None where it is of a kind that is not known."""
    if isinstance(visual, VisionTransformer):
        return _PlainCut(visual)
    if isinstance(visual, ModifiedResNet):
        return _ResNetCut(visual)
    trunk = visual.trunk if isinstance(visual, TimmModel) else None
    # A subclass with a forward of its own would be cut wrongly and still run.
    if isinstance(trunk, TimmVisionTransformer) and type(trunk).forward_features is TimmVisionTransformer.forward_features:
        return _TimmVitCut(visual)
    if type(trunk) is Eva:
        return _EvaCut(visual)
    if type(trunk) is FastVit:
        return _FastVitCut(visual)
    if type(trunk) is ConvNeXt:
        return _ConvNextCut(visual)
    return None


def _present(**modules: nn.Module | None) -> dict[str, nn.Module]:
    return {name: module for name, module in modules.items() if module is not None and not isinstance(module, nn.Identity)}


@final
class _PlainCut:
    """open_clip's own VisionTransformer (OpenAI, LAION, DataComp, DFN, MetaCLIP, nano-clip)."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.blocks: list[nn.Module] = list(visual.transformer.resblocks)
        if reads_class_token(visual):  # what the last block makes of the other tokens nobody reads
            self.blocks[-1] = ClassTokenBlock(visual.transformer.resblocks[-1])
        # Of an attentional pooler (CoCa) only what reads an image's tokens; its queries are the same for all images.
        pool = visual.attn_pool
        self.head_modules = _present(ln_post=visual.ln_post, **({} if pool is None else {"attn_pool.ln_k": pool.ln_k}))

    def prefix(self, pixels: Tensor) -> Tensor:
        return self._visual._embeds(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        pooled, _ = self._visual._pool(tokens)
        return pooled if self._visual.proj is None else pooled @ self._visual.proj


@final
class _ResNetCut:
    """CLIP's ResNets: the bottlenecks are the blocks; their maps shrink from stage to stage. Its norms are BatchNorms."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        stages = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
        self.blocks: list[nn.Module] = [block for stage in stages for block in stage]
        self.head_modules = _present(attnpool=visual.attnpool)

    def prefix(self, pixels: Tensor) -> Tensor:
        return self._visual.stem(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        return self._visual.attnpool(tokens)


@final
class _TimmVitCut:
    """timm's VisionTransformer (SigLIP, SigLIP 2, MobileCLIP-B with its convolutional stem, ViTamin)."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        self.blocks: list[nn.Module] = list(trunk.blocks)
        self.head_modules = _present(norm=trunk.norm, attn_pool=trunk.attn_pool, fc_norm=trunk.fc_norm)

    def prefix(self, pixels: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.norm(tokens)))


@final
class _EvaCut:
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

    def prefix(self, pixels: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return trunk.norm_pre(trunk._pos_embed(trunk.patch_embed(pixels))[0])

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.norm(tokens)))


@final
class _FastVitCut:
    """timm's FastViT (MobileCLIP S0 to S4): downsampling, positions and mixers of all stages are the blocks."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        units = [unit for stage in trunk.stages for unit in (stage.downsample, stage.pos_emb, *stage.blocks)]
        self.blocks: list[nn.Module] = [unit for unit in units if not isinstance(unit, nn.Identity)]
        self.head_modules = _present(final_conv=trunk.final_conv, head=trunk.head)

    def prefix(self, pixels: Tensor) -> Tensor:
        return self._visual.trunk.stem(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.final_conv(tokens)))


@final
class _ConvNextCut:
    """timm's ConvNeXt (LAION's convolutional CLIPs): downsampling and blocks of all stages are the blocks."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        units = [unit for stage in trunk.stages for unit in (stage.downsample, *stage.blocks)]
        self.blocks: list[nn.Module] = [unit for unit in units if not isinstance(unit, nn.Identity)]
        self.head_modules = _present(norm_pre=trunk.norm_pre, head=trunk.head)

    def prefix(self, pixels: Tensor) -> Tensor:
        return self._visual.trunk.stem(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.norm_pre(tokens)))
