"""The families of visual encoders, and what can be tuned in each: one table, which the tests hold against the backbones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final


@final
@dataclass(frozen=True)
class Family:
    """
    Attributes:
        name: as it stands in `grpo-tta models`.
        tunes: the sets of `grpo_tta.engine.parameters` that every member supports.
        norms: what kind of norm the set `norm` tunes.
        prefixes: how the names of its timm encoders begin.
    """

    name: str
    tunes: tuple[str, ...]
    norms: str
    prefixes: tuple[str, ...] = ()


_SIGLIP = ("vit_base_patch16_siglip", "vit_base_patch32_siglip", "vit_large_patch16_siglip", "vit_so400m", "vit_giantopt")
_ALL = ("norm", "lora", "blocks")
VIT = Family("vit", _ALL, "LayerNorm")
VIT_SCALED = Family("vit-layer-scale", ("norm", "lora"), "LayerNorm")
RESNET = Family("clip-resnet", ("norm",), "BatchNorm")
TIMM = (
    Family("siglip", _ALL, "LayerNorm", _SIGLIP),
    Family("eva-01", ("norm", "lora"), "LayerNorm", ("eva_giant",)),
    Family("eva-02-e", ("norm", "lora"), "LayerNorm", ("eva02_enormous",)),
    Family("eva-02", _ALL, "LayerNorm", ("eva02_base", "eva02_large")),
    Family("perception-encoder", _ALL, "LayerNorm", ("vit_pe_core",)),
    Family("mobileclip", ("norm", "lora"), "BatchNorm", ("fastvit_mci",)),
    Family("mobileclip-b", _ALL, "LayerNorm", ("vit_base_mci",)),
    Family("vitamin", _ALL, "LayerNorm", ("vitamin",)),
    Family("convnext", ("norm",), "LayerNorm", ("convnext",)),
    Family("timm-vit", _ALL, "LayerNorm", ("vit_large_patch14_clip",)),
    Family("timm-vit-layer-scale", ("norm", "lora"), "LayerNorm", ("vit_medium_patch16_gap",)),
)
TRANSFORMERS = {name: Family(name, _ALL, "LayerNorm") for name in ("clip", "siglip", "siglip2")}
"""By `model_type` of the configuration."""


def family_of(vision_config: Mapping[str, Any]) -> Family | None:
    """The family of a visual encoder by open_clip's configuration, None where it cannot be cut into blocks."""
    if name := vision_config.get("timm_model_name"):
        return next((family for family in TIMM if name.startswith(family.prefixes)), None)
    if isinstance(vision_config.get("layers"), list | tuple):
        return RESNET
    return VIT if vision_config.get("ls_init_value") is None else VIT_SCALED
