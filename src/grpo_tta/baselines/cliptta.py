"""CLIPTTA (Lafon et al., NeurIPS 2025, arXiv 2507.14312): CLIP's own contrastive loss, made soft, over the batch and a
memory.

Each of N images is given the prompt of its pseudo-class, t^_n = t_{argmax p_n}. With q_nm = softmax_m(s <f_n, t^_m>) over
the prompts *of the minibatch*, steps of Adam on the affine of the norms lower

    1/2 sum over minibatch and memory of ( mean_n H(q_n) - lambda H(mean_n p_n) ).

The memory keeps the surest images of each pseudo-class (by the probability of the answer at the first step). A minibatch is
predicted after its steps; parameters, moments and memory go on along the stream.

How this differs from the paper: as in the official code while the text is not tuned, the half of the loss from prompts to
images is the same as that from images to prompts; the paper normalises it over images. That code leaves out the factor 1/2,
which Adam does not feel. A class with more images in the memory than a step takes gives a part drawn by the run's seed. The
memory holds the tokens that enter the first tuned block, which is the same as the images, and a norm before that block stays
as it is. The extension to images of no class (OCE) is left out. The settings are those of the paper's summary and of the
code's defaults, which agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from grpo_tta.baselines.common import norms_from_the_start, shared_features
from grpo_tta.config.checks import check_at_least, check_positive
from grpo_tta.engine.distributions import entropy, log_mean_probs
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State, minibatches
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam, load_shared, save_shared
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.images.seeds import image_generator

_TOKENS, _CLASSES, _SURENESS = "memory.tokens", "memory.classes", "memory.sureness"


@final
@dataclass(frozen=True)
class CLIPTTASettings:
    """
    Attributes:
        update_size: images adapted to together; the last of a batch may be fewer.
        steps: of Adam, per minibatch.
        learning_rate: of Adam.
        diversity: lambda, weight of the entropy of the mean prediction.
        shots: images of each pseudo-class that the memory keeps.
        recalled: images of the memory that a step takes, spread evenly over the classes, one of each at least.
    """

    update_size: int = 128
    steps: int = 10
    learning_rate: float = 1e-4
    diversity: float = 1.0
    shots: int = 4
    recalled: int = 256

    def __post_init__(self) -> None:
        check_at_least("update_size", self.update_size, 1)
        check_at_least("steps", self.steps, 1)
        check_positive("learning_rate", self.learning_rate)
        check_at_least("diversity", self.diversity, 0)
        check_at_least("shots", self.shots, 1)
        check_at_least("recalled", self.recalled, 1)


def contrastive_gain(features: Tensor, text: Tensor, log_probs: Tensor, scale: float, diversity: float) -> Tensor:
    """lambda H(mean_n p_n) - mean_n H(q_n), a number.

    Args:
        features: unit, `[N, D]`.
        text: unit, `[C, D]`.
        log_probs: log p, `[N, C]`.
        scale: the model's logit scale s.
        diversity: lambda.
    """
    captions = text[log_probs.detach().argmax(-1)]  # [N, D]
    among = (scale * features @ captions.T).log_softmax(-1)  # [N, N]
    return diversity * entropy(log_mean_probs(log_probs[None]))[0] - entropy(among).mean()


def surest(classes: Tensor, sureness: Tensor, shots: int) -> Tensor:
    """Places of the `shots` surest entries of each class: `[n]`, `[n]` -> `[m]`, by class and then by sureness."""
    order = sureness.argsort(descending=True, stable=True)
    order = order[classes[order].argsort(stable=True)]
    return order[_rank_in_class(classes[order]) < shots]


def _rank_in_class(classes: Tensor) -> Tensor:
    """0, 1, ... for the entries of each class, where those of a class stand together: `[n]` -> `[n]`."""
    place = torch.arange(len(classes), device=classes.device)
    first = torch.ones_like(classes, dtype=torch.bool)
    first[1:] = classes[1:] != classes[:-1]
    return place - torch.where(first, place, 0).cummax(0).values


def remember(memory: State, tokens: Tensor, log_probs: Tensor, shots: int) -> State:
    """The memory with N more images, cut to the surest of each pseudo-class: `[N, T, W]`, `[N, C]`."""
    sureness, classes = log_probs.max(-1)
    held = {_TOKENS: tokens, _CLASSES: classes, _SURENESS: sureness}
    if memory:
        held = {key: torch.cat([memory[key], more]) for key, more in held.items()}
    kept = surest(held[_CLASSES], held[_SURENESS], shots)
    return {key: value[kept] for key, value in held.items()}


def recall(memory: State, each: int, generator: torch.Generator) -> Tensor:
    """Tokens `[m, T, W]` of at most `each` images of every class, drawn where there are more."""
    classes = memory[_CLASSES]
    order = torch.rand(len(classes), generator=generator).argsort().to(classes.device)
    order = order[classes[order].argsort(stable=True)]
    return memory[_TOKENS][order[_rank_in_class(classes[order]) < each]]


def cliptta_step(policy: Policy, batch: ImageBatch, settings: CLIPTTASettings, state: State) -> tuple[Adaptation, State]:
    """Adapts to N images of one minibatch and predicts them.

    With m images recalled at each step: steps * (1 + m / N) + 1 forward passes per image, and one more behind the first
    minibatch; steps * (1 + m / N) backward passes.

    The state holds parameters, moments and the memory; an empty one starts a stream.
    """
    s, tunable = settings, NormAffine()(policy.backbone)
    tokens = batch.encoded.tokens[tunable.first_block][:, 0]  # [N, T, W]
    text, scale = policy.text_features.float(), policy.backbone.logit_scale
    update = Adam(s.learning_rate).start()
    params = load_shared(state, tunable.start(1), update)

    # the memory takes this minibatch as the model saw it before the steps
    memory = {key: value.to(tokens.device) for key, value in state.items() if key.startswith("memory.")}
    with torch.no_grad():
        said = policy.log_probs(shared_features(policy, tokens, tunable, params)) if state else batch.encoded.log_probs[:, 0]
    memory = remember(memory, tokens, said, s.shots)
    generator = image_generator(batch.seed, batch.image_ids[0], "recalled")
    each, recalled = max(1, s.recalled // policy.classes), 0

    def of_both(params: Mapping[str, Tensor]) -> Tensor:
        nonlocal recalled
        gain = tokens.new_zeros((), dtype=torch.float32)
        again = recall(memory, each, generator)
        recalled += len(again)
        for some in (tokens, again):
            features = shared_features(policy, some, tunable, params)
            gain = gain + contrastive_gain(features, text, policy.log_probs(features), scale, s.diversity) / 2
        return gain

    params = gradient_steps(params, gradient_of(of_both), update, s.steps)
    with torch.no_grad():
        after = policy.log_probs(shared_features(policy, tokens, tunable, params))
    passes = after.new_full((len(tokens),), s.steps + recalled / len(tokens))
    cost = Cost(passes + 1 + bool(state), passes)
    return Adaptation(batch.encoded.log_probs[:, 0], after, cost), save_shared(params, update) | memory


def _together(parts: Sequence[Adaptation]) -> Adaptation:
    """The outcome of consecutive minibatches as one, each image with its own cost."""
    forwards = torch.cat([torch.as_tensor(p.cost.forwards) for p in parts])
    backwards = torch.cat([torch.as_tensor(p.cost.backwards) for p in parts])
    before, after = torch.cat([p.before for p in parts]), torch.cat([p.after for p in parts])
    return Adaptation(before, after, Cost(forwards, backwards))


def cliptta_method(settings: CLIPTTASettings, name: str = "cliptta") -> Method:
    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        done = []
        for some in minibatches(batch, settings.update_size):
            adaptation, state = cliptta_step(policy, some, settings, state)
            done.append(adaptation)
        return _together(done), state

    return Method(name, "online", "none", 1, 0, settings, norms_from_the_start, run, reads_text=True)
