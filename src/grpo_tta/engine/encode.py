"""Views made and read in rounds, each image only as many as it needs (see `stopping`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor

from grpo_tta.engine.batches import make_batch, prepare
from grpo_tta.engine.early_exit import Stop, round_ends, views_read
from grpo_tta.engine.policy import EncodedViews, Policy
from grpo_tta.images.views import ViewSettings


@torch.no_grad()
def observe_images(
    policy: Policy,
    images: Sequence[Image.Image],
    image_ids: Sequence[str],
    settings: ViewSettings,
    seed: int,
    cuts: Collection[int],
    stop: Stop | None = None,
) -> tuple[Tensor, Tensor, EncodedViews]:
    """`make_batch` and `Policy.observe`; with `stop` an image's views are made and read only until it needs no more.

    In place of views that were not read stands view 0. `views_read` finds the same counts in the result again. Copies are read
    with the first round.

    Args:
        images: B decoded RGB images.
        image_ids: with the seed they name every random number.

    Returns:
        Views `[B, V, 3, S, S]`, copies `[B, P, 3, S, S]` and what the frozen model sees in them.
    """
    if stop is None:
        views, copies = make_batch(policy.backbone, images, image_ids, settings, seed)
        return views, copies, policy.observe(views, copies, cuts)
    V, ends = settings.views, round_ends(settings.views)
    prepared = prepare(policy.backbone, images, image_ids, settings, seed)
    made, copies = (torch.stack(x) for x in zip(*((p.views(range(ends[0])), p.content_free()) for p in prepared), strict=True))
    views, whole = _widen(made, ends[0], V), _widened(policy.observe(made, copies, cuts), V)
    active = list(range(len(prepared)))
    for begin, end in pairwise(ends):
        needed = views_read(whole.log_probs[:, :V], stop)
        active = [b for b in active if needed[b] > begin]
        if not active:
            break
        made = torch.stack([prepared[b].views(range(begin, end)) for b in active])
        seen = policy.observe(made, made[:, :0], cuts)
        rows = torch.tensor(active, device=views.device)
        views[rows, begin:end] = made
        for name, part in _tensors(seen).items():
            _tensors(whole)[name][rows, begin:end] = part
    return views, copies, whole


def _tensors(seen: EncodedViews) -> dict[str, Tensor]:
    """Everything that holds a row for every view, `[B, N, ...]` each."""
    return {"features": seen.features, "log_probs": seen.log_probs} | {str(cut): kept for cut, kept in seen.tokens.items()}


def _widen(x: Tensor, n: int, V: int) -> Tensor:
    """Room for V views behind the n that were read and before the copies: `[B, n + P, ...]` -> `[B, V + P, ...]`."""
    return torch.cat([x[:, :n], x[:, :1].expand(-1, V - n, *x.shape[2:]), x[:, n:]], dim=1)


def _widened(seen: EncodedViews, V: int) -> EncodedViews:
    n = seen.views
    tokens = {cut: _widen(kept, n, V) for cut, kept in seen.tokens.items()}
    return EncodedViews(_widen(seen.features, n, V), _widen(seen.log_probs, n, V), tokens, V)
