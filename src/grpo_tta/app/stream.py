"""What the page shows of a stream: answers in order, their running mix, and how far the model has moved. No Gradio.

No label is known, so no accuracy. What can be watched in its place is computed for each minibatch, by the model as that
minibatch left it: KL(pi_theta || pi_0) and the disagreement of the views. Both cost one more pass over the views.

Sizes: N images of a minibatch, V views, C classes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from grpo_tta.app.knowledge import is_photograph
from grpo_tta.app.uploads import decode_upload, without_folder
from grpo_tta.classifier import GRPOTTA, Prediction
from grpo_tta.engine.distributions import kl_divergence
from grpo_tta.engine.encode import encode_images
from grpo_tta.engine.optim import load_shared
from grpo_tta.images.read import DecodedImage
from grpo_tta.method.online_settings import ONLINE

SETTINGS = ONLINE


@final
@dataclass(frozen=True)
class Streamed:
    """One image of a stream, or an error in place of its answers.

    Attributes:
        before, after: zero-shot answer, and the one along the stream.
        percent: probability of the latter.
        kl: KL(pi_theta || pi_0) in nats, the mean over the views.
        others: views in which the model names another label than the answer.
        views: how many there are.
        photograph: it looks like one; None where that cannot be said.
    """

    file: str
    before: str = ""
    after: str = ""
    percent: float = 0.0
    kl: float = 0.0
    others: int = 0
    views: int = 0
    photograph: bool | None = None
    error: str = ""


@final
@dataclass(frozen=True)
class Stand:
    """Where a stream stands after a minibatch.

    Attributes:
        images: that were taken so far, unreadable ones among them.
        mix, mix_before: (label, percent of the answers so far), most frequent first; along the stream, and zero-shot.
        kl: mean over the minibatch.
        others: views of the minibatch that name another label than the answer, in percent.
        answered: how many images of the minibatch have an answer. Without any, kl and others mean nothing.
    """

    images: int
    mix: tuple[tuple[str, float], ...]
    mix_before: tuple[tuple[str, float], ...]
    kl: float
    others: float
    answered: int


def follow(classifier: GRPOTTA, paths: Sequence[Path]) -> Iterator[tuple[Streamed, ...]]:
    """The answers of `GRPOTTA.stream`, one minibatch after the other. A call begins anew: nothing is kept after it.

    Raises:
        UserError: the model has nothing that a stream could tune.
    """
    with contextlib.closing(classifier.stream(paths, errors="return")) as stream:
        for begin in range(0, len(paths), SETTINGS.update_size):
            some = paths[begin : begin + SETTINGS.update_size]
            found = [next(stream) for _ in some]  # all of them, so that the state is that after this minibatch
            yield _rows(classifier, some, found, stream.state_dict())


def _rows(
    classifier: GRPOTTA, paths: Sequence[Path], found: Sequence[Prediction | Exception], state: Mapping[str, Tensor]
) -> tuple[Streamed, ...]:
    side = SETTINGS.grpo.views.least_side(classifier.backbone.image_size)
    readable = {i: decode_upload(paths[i], side) for i, answer in enumerate(found) if isinstance(answer, Prediction)}
    watched = dict(zip(readable, watch(classifier, list(readable.values()), state), strict=True))
    rows = []
    for i, (path, answer) in enumerate(zip(paths, found, strict=True)):
        if isinstance(answer, Prediction):
            kl, named = watched[i]
            others = sum(label != answer.label for label in named)
            seen = is_photograph(readable[i].image)
            percent = 100 * answer.probability
            rows.append(Streamed(path.name, answer.label_before, answer.label, percent, kl, others, len(named), seen))
        else:
            rows.append(Streamed(path.name, error=without_folder(answer, path)))
    return tuple(rows)


@torch.no_grad()
def watch(classifier: GRPOTTA, images: Sequence[DecodedImage], state: Mapping[str, Tensor]) -> list[tuple[float, list[str]]]:
    """What the model of a state says of N images.

    Args:
        state: of `Stream.state_dict`, after at least one answer.

    Returns:
        For each image the mean over the views of KL(pi_theta || pi_0) in nats, and the label of each view.
    """
    if not images:
        return []
    policy, grpo = classifier.policy, SETTINGS.grpo
    tunable = grpo.tune(policy.backbone)
    params = load_shared(state, tunable.start(1), grpo.steps.optimizer.start())
    kept = [tunable.first_block]
    given, names = [each.image for each in images], [each.key for each in images]
    encoded = encode_images(policy, given, names, grpo.views, classifier.seed, cached_blocks=kept).encoded
    tokens = encoded.tokens[tunable.first_block].flatten(0, 1)[None]  # to the backbone, views of a single image
    now = policy.adapted(tokens, tunable, params)[0].unflatten(0, (len(images), -1))  # [N, V, C]
    moved = kl_divergence(now, encoded.log_probs).mean(-1).tolist()
    return [(kl, [classifier.labels[c] for c in row]) for kl, row in zip(moved, now.argmax(-1).tolist(), strict=True)]


def stand_after(minibatches: Sequence[Sequence[Streamed]]) -> Stand:
    """The last line of the running table."""
    so_far = [row for some in minibatches for row in some]
    last = [row for row in minibatches[-1] if not row.error]
    views = sum(row.views for row in last)
    return Stand(
        len(so_far),
        _mix([row.after for row in so_far if not row.error]),
        _mix([row.before for row in so_far if not row.error]),
        sum(row.kl for row in last) / max(1, len(last)),
        100 * sum(row.others for row in last) / max(1, views),
        len(last),
    )


def _mix(labels: Sequence[str]) -> tuple[tuple[str, float], ...]:
    return tuple((label, 100 * count / len(labels)) for label, count in Counter(labels).most_common())
