"""The 1,000 classes of ImageNet-1k: their WordNet ids, in the order of the labels, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from grpo_tta.errors import UserError


@cache  # a constant of an installed library
def wordnet_ids() -> tuple[str, ...]:
    """The 1000 WordNet ids of ImageNet-1k in the order of its labels, which is their sorted order.

    Raises:
        UserError: the installed timm does not list 1000 sorted ids.
    """
    from timm.data import ImageNetInfo

    ids = tuple(ImageNetInfo("imagenet-1k").label_names())
    if len(set(ids)) != 1000 or list(ids) != sorted(ids):
        raise UserError("timm's list of ImageNet classes is not the expected one; install timm again.")
    return ids


@cache  # likewise
def class_names() -> Mapping[str, str]:
    """WordNet id -> the name in OpenAI's prompts. Two names occur twice (missile, sunglasses), as in the published figures."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return dict(zip(wordnet_ids(), IMAGENET_CLASSNAMES, strict=True))
