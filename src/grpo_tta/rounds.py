"""Views made and read in rounds, each picture only as many as it needs (see `stopping`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise

import torch
from PIL import Image
from torch import Tensor

from grpo_tta.batches import make_batch
from grpo_tta.policy import Observation, Policy
from grpo_tta.stopping import Stop, round_ends, views_read
from grpo_tta.views import ViewSettings


@torch.no_grad()
def observe_in_rounds(
    policy: Policy,
    images: Sequence[Image.Image],
    image_ids: Sequence[str],
    settings: ViewSettings,
    seed: int,
    cuts: Collection[int],
    stop: Stop,
) -> tuple[Tensor, Tensor, Observation]:
    """As `make_batch` and `Policy.observe`, but a picture's views are made and read only until it needs no more of them.

    Views that were not read have uniform log-probabilities, and zeros for pixels, features and tokens; `views_read` finds the
    same counts in the result again. Copies are read with the first round.

    Args:
        images: B decoded RGB pictures.
        image_ids: with the seed they name every random number.

    Returns:
        Views `[B, V, 3, S, S]`, copies `[B, P, 3, S, S]` and what the frozen model sees in them.
    """
    V = settings.views
    active = list(range(len(images)))
    made, copies, seen = _read(policy, images, image_ids, settings, seed, cuts, range(round_ends(V)[0]))
    views = made.new_zeros((len(images), V, *made.shape[2:]))
    views[:, : made.shape[1]] = made
    whole = _widened(seen, V, policy.classes)
    for begin, end in pairwise(round_ends(V)):
        needed = views_read(whole.log_probs[:, :V], stop)
        active = [b for b in active if needed[b] > begin]
        if not active:
            break
        some, names = [images[b] for b in active], [image_ids[b] for b in active]
        made, _, seen = _read(policy, some, names, settings, seed, cuts, range(begin, end))
        rows = torch.tensor(active, device=views.device)
        views[rows, begin:end] = made
        for name, part in _tensors(seen).items():
            _tensors(whole)[name][rows, begin:end] = part
    return views, copies, whole


def _read(
    policy: Policy,
    images: Sequence[Image.Image],
    image_ids: Sequence[str],
    settings: ViewSettings,
    seed: int,
    cuts: Collection[int],
    which: range,
) -> tuple[Tensor, Tensor, Observation]:
    views, copies = make_batch(policy.tower, images, image_ids, settings, seed, which)
    return views, copies, policy.observe(views, copies, cuts)


def _tensors(seen: Observation) -> dict[str, Tensor]:
    """Everything that holds a row for every view, `[B, N, ...]` each."""
    return {"features": seen.features, "log_probs": seen.log_probs} | {str(cut): kept for cut, kept in seen.tokens.items()}


def _widened(seen: Observation, V: int, C: int) -> Observation:
    """The same with room for V views between the ones that were read and the copies."""
    n = seen.views

    def widen(x: Tensor, value: float = 0.0) -> Tensor:
        room = x.new_full((len(x), V - n, *x.shape[2:]), value)
        return torch.cat([x[:, :n], room, x[:, n:]], dim=1)

    tokens = {cut: widen(kept) for cut, kept in seen.tokens.items()}
    return Observation(widen(seen.features), widen(seen.log_probs, -math.log(C)), tokens, V)
