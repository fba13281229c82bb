"""What models are known, which of them lie on this machine, and what can be tuned in each.

The table of families is held against the backbones by the tests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import open_clip
from huggingface_hub import try_to_load_from_cache

from grpo_tta.backbones.hub import cached_repositories, missing_parts
from grpo_tta.backbones.names import HUB, SHIPPED, Source, shipped_folder


@final
@dataclass(frozen=True)
class Family:
    """
    Attributes:
        name: as it stands in `grpo-tta models`.
        tunes: what can be tuned in every member: `norm` (`NormAffine`), `low-rank` (`LowRank`) or both.
        norms: what kind of norm `norm` tunes.
        timm_names: beginnings of the names of its timm encoders.
    """

    name: str
    tunes: tuple[str, ...]
    norms: str
    timm_names: tuple[str, ...] = ()


_SIGLIP = ("vit_base_patch16_siglip", "vit_base_patch32_siglip", "vit_large_patch16_siglip", "vit_so400m", "vit_giantopt")
_ALL = ("norm", "low-rank")
VIT = Family("vit", _ALL, "LayerNorm")
RESNET = Family("clip-resnet", ("norm",), "BatchNorm")
TIMM = (
    Family("siglip", _ALL, "LayerNorm", _SIGLIP),
    Family("eva-01", _ALL, "LayerNorm", ("eva_giant",)),
    Family("eva-02", _ALL, "LayerNorm", ("eva02_",)),
    Family("perception-encoder", _ALL, "LayerNorm", ("vit_pe_core",)),
    Family("mobileclip", _ALL, "BatchNorm", ("fastvit_mci",)),
    Family("mobileclip-b", _ALL, "LayerNorm", ("vit_base_mci",)),
    Family("vitamin", _ALL, "LayerNorm", ("vitamin",)),
    Family("convnext", ("norm",), "LayerNorm", ("convnext",)),
    Family("timm-vit", _ALL, "LayerNorm", ("vit_large_patch14_clip", "vit_medium_patch16_gap")),
)
TRANSFORMERS = {name: Family(name, _ALL, "LayerNorm") for name in ("clip", "siglip", "siglip2")}
"""By `model_type` of the configuration."""


def family_of(vision_config: Mapping[str, Any]) -> Family | None:
    """The family of a visual encoder by open_clip's configuration, None where it cannot be split into blocks."""
    if name := vision_config.get("timm_model_name"):
        return next((family for family in TIMM if name.startswith(family.timm_names)), None)
    if isinstance(vision_config.get("layers"), list | tuple):
        return RESNET
    return VIT


PUBLISHED = {
    "clip": (
        "openai/clip-vit-base-patch32",
        "openai/clip-vit-base-patch16",
        "openai/clip-vit-large-patch14",
        "openai/clip-vit-large-patch14-336",
    ),
    "siglip": (
        "google/siglip-base-patch16-224",
        "google/siglip-large-patch16-384",
        "google/siglip-so400m-patch14-384",
        "google/siglip2-base-patch16-224",
        "google/siglip2-so400m-patch14-384",
    ),
    "siglip2": ("google/siglip2-base-patch16-naflex", "google/siglip2-so400m-patch16-naflex"),
}
"""Ids in transformers' format, by `model_type`: the ones most asked for; any other id of these types loads as well."""


@final
@dataclass(frozen=True)
class KnownModel:
    """
    Attributes:
        name: for `--model`.
        library: that loads it.
        family: of its visual encoder.
        tunes: `norm`, `low-rank` or both; see `Family`.
        norms: the kind of norm that `norm` tunes.
        missing: what of it is not on this machine.
    """

    name: str
    library: str
    family: str
    tunes: tuple[str, ...]
    norms: str
    missing: tuple[str, ...]

    @property
    def cached(self) -> bool:
        return not self.missing


def known_models() -> list[KnownModel]:
    """Every model with pretrained weights that can be adapted, and every other one in the hub's cache on this machine."""
    found = [_entry(Source(name, "open_clip", folder=shipped_folder(name)), family_of({})) for name in SHIPPED]
    for architecture in open_clip.list_models():
        family = family_of((open_clip.get_model_config(architecture) or {})["vision_cfg"])
        for tag in open_clip.list_pretrained_tags_by_model(architecture):
            found.append(_entry(Source(f"{architecture}/{tag}", "open_clip", architecture, tag), family))
    for kind, names in PUBLISHED.items():
        found += [_entry(Source(name, "transformers", repository=name), TRANSFORMERS[kind]) for name in names]
    published = {name for names in PUBLISHED.values() for name in names}
    for repository in cached_repositories():
        found += _cached(repository, skip=repository in published)
    return [entry for entry in found if entry is not None]


def _entry(source: Source, family: Family | None) -> KnownModel | None:
    if family is None:
        return None
    return KnownModel(source.name, source.library, family.name, family.tunes, family.norms, tuple(missing_parts(source)))


def _cached(repository: str, *, skip: bool) -> list[KnownModel | None]:
    """A repository of the cache, as a model of open_clip's format, of transformers', of both or of neither."""
    entries = []
    if config := _config(repository, "open_clip_config.json").get("model_cfg"):
        entries.append(_entry(Source(HUB + repository, "open_clip", repository=repository), family_of(config["vision_cfg"])))
    if (family := TRANSFORMERS.get(_config(repository, "config.json").get("model_type", ""))) and not skip:
        entries.append(_entry(Source(repository, "transformers", repository=repository), family))
    return entries


def _config(repository: str, file: str) -> dict[str, Any]:
    """A JSON file of a repository in the cache; empty where there is none, or none that can be read."""
    path = try_to_load_from_cache(repository, file)
    if not isinstance(path, str):
        return {}
    try:
        content = json.loads(Path(path).read_text())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
