"""LoRA-TTT (Kojima et al., arXiv 2502.02069): low-rank deltas on the last blocks' attention, by marginal entropy and by what
the encoder makes of a view whose patches are mostly missing.

On the M confident views of one image, one step of AdamW on deltas B A of the query, key, value and output projections lowers

    H(1/M sum_v p_v) + lambda 1/(M D r) sum_v |f(masked v) - f(v)|^2,

where a masked view has lost a random share r of its patches and f(v), the features of the whole view, carries no gradient.
The answer is that on the untouched image.

How this differs from the official code: f is what the head returns, before its length is normalised, instead of the class
token before the projection, so lambda weighs another unit; the masks come from the run's seed and the image; dropout (0.01)
is left out. A starts from a normal law instead of a uniform one times alpha / r = 2, whose deviation it meets within 15 %.
The rank (16), the layers (the last two of twelve), rates, the share r = 0.75 and lambda = 1 are those of the code's default
configuration; the paper's own text was not available to us, and other files of that repository hold other ranks and layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from grpo_tta.backbones.base import Backbone
from grpo_tta.baselines.encoder_entropy import mean_confidence
from grpo_tta.config.checks import check_at_least, check_selected, check_share
from grpo_tta.engine.distributions import most_confident, take_views
from grpo_tta.engine.interface import Adaptation, Cost, ImageBatch, Method, State
from grpo_tta.engine.loop import gradient_of, gradient_steps
from grpo_tta.engine.optim import Adam
from grpo_tta.engine.parameters import LowRankDelta, TunableParameters
from grpo_tta.engine.policy import Policy
from grpo_tta.errors import UserError
from grpo_tta.images.seeds import image_generator

_FUSED = ("attn.in_proj_weight", "qkv.weight")
_OWN = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight", "attn.proj.weight")


@final
@dataclass(frozen=True)
class LoRATTTSettings:
    """
    Attributes:
        views: V.
        selected: M, how many views of lowest entropy enter the loss (10 %).
        last_blocks: deltas in the last n blocks, or in all where there are fewer.
        rank: of the deltas.
        masked: r, share of the patches that a masked view loses.
        reconstruction: lambda, weight of the masked views; 0 leaves them out.
        steps: of AdamW.
        learning_rate, weight_decay: of AdamW.
    """

    views: int = 64
    selected: int = 6
    last_blocks: int = 2
    rank: int = 16
    masked: float = 0.75
    reconstruction: float = 1.0
    steps: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.2

    def __post_init__(self) -> None:
        check_selected(self.selected, self.views)
        check_at_least("last_blocks", self.last_blocks, 1)
        check_at_least("rank", self.rank, 1)
        check_share("masked", self.masked, open_below=True)
        check_at_least("reconstruction", self.reconstruction, 0)
        check_at_least("steps", self.steps, 1)
        self.optimizer()

    def optimizer(self) -> Adam:
        return Adam(self.learning_rate, weight_decay=self.weight_decay)

    def tune(self, backbone: Backbone) -> TunableParameters:
        return attention_deltas(backbone, self.rank, min(self.last_blocks, len(backbone.blocks)))


def attention_deltas(backbone: Backbone, rank: int, last_blocks: int) -> TunableParameters:
    """Low-rank deltas on all four projections of the attention in the last blocks.

    Raises:
        UserError: the backbone has no attention of this kind.
    """
    first = len(backbone.blocks) - last_blocks
    deltas: dict[str, tuple[nn.Parameter, tuple[LowRankDelta, ...]]] = {}
    shapes: dict[str, torch.Size] = {}
    for number in range(first, len(backbone.blocks)):
        for name, weight in backbone.blocks[number].named_parameters(prefix=f"blocks.{number}"):
            if weight.ndim != 2 or not name.endswith((*_FUSED, *_OWN)):
                continue
            parts = 3 if name.endswith(_FUSED) else 1
            rows = len(weight) // parts
            pairs = []
            for part in range(parts):
                pair = LowRankDelta(slice(part * rows, (part + 1) * rows), f"{name}[{part}].A", f"{name}[{part}].B")
                shapes[pair.down], shapes[pair.up] = torch.Size([rank, weight.shape[1]]), torch.Size([rows, rank])
                pairs.append(pair)
            deltas[name] = (weight, tuple(pairs))
    if not deltas:
        raise UserError(f"{backbone.name} has no attention projections that low-rank deltas fit; use encoder-entropy instead.")
    return TunableParameters(first, {}, deltas, shapes)


def kept_tokens(image_ids: Sequence[str], seed: int, views: int, tokens: int, masked: float) -> Tensor:
    """Which tokens of M masked views of B images are left, `[B, M, K]`: the first (the class token) and a random share of the
    others, one of them at least, each image's from its own generator."""
    patches = tokens - 1
    left = max(1, int(patches * (1 - masked)))
    rows = []
    for name in image_ids:
        order = torch.rand((views, patches), generator=image_generator(seed, name, "masks")).argsort(-1)
        rows.append(torch.cat([torch.zeros((views, 1), dtype=torch.long), 1 + order[:, :left]], dim=-1))
    return torch.stack(rows)


def reconstruction_error(masked: Tensor, whole: Tensor, share: float) -> Tensor:
    """1/(M D r) sum_v |f(masked v) - f(v)|^2: `[B, M, D]` twice -> `[B]`."""
    return (masked - whole).square().mean((1, 2)) / share


@torch.no_grad()
def _masked_tokens(policy: Policy, batch: ImageBatch, selected: Tensor, settings: LoRATTTSettings, first: int) -> Tensor:
    """Tokens of the masked views where they enter the first tuned block, `[B, M, K, W]`.

    Raises:
        UserError: the backbone's tokens are maps, of which none can be left out.
    """
    stem = batch.encoded.tokens[0]  # [B, V, T, W]
    if stem.ndim != 4:
        raise UserError(f"{policy.backbone.name} reads maps, of which no patch can be left out; set reconstruction to 0.")
    kept = kept_tokens(batch.image_ids, batch.seed, selected.shape[1], stem.shape[2], settings.masked).to(stem.device)
    chosen = take_views(stem, selected)
    x = chosen.gather(2, kept[..., None].expand(-1, -1, -1, chosen.shape[-1])).flatten(0, 1)
    for block in policy.backbone.blocks[:first]:
        x = block(x)
    return x.unflatten(0, (len(selected), -1))


def lora_ttt(policy: Policy, batch: ImageBatch, settings: LoRATTTSettings) -> Adaptation:
    """Predicts view 0 after the steps.

    With share that of the blocks from the first tuned one on, and k the share of the tokens that a masked view keeps:
    V + M k (1 - share) + share (steps M (1 + k) + 1) forward and share steps M (1 + k) backward passes.
    """
    s, tunable = settings, settings.tune(policy.backbone)
    views = batch.encoded.log_probs[:, : s.views]
    selected = most_confident(views, s.selected)
    tokens = batch.encoded.tokens[tunable.first_block]
    chosen = take_views(tokens, selected)
    masked = _masked_tokens(policy, batch, selected, s, tunable.first_block) if s.reconstruction else None

    def gain(params: Mapping[str, Tensor]) -> Tensor:
        whole = policy.adapted_features(chosen, tunable, params).float()  # [B, M, D]
        found = mean_confidence(policy.log_probs(whole))
        if masked is None:
            return found
        part = policy.adapted_features(masked, tunable, params).float()
        return found - s.reconstruction * reconstruction_error(part, whole.detach(), s.masked)

    params = gradient_steps(tunable.start(len(views)), gradient_of(gain), s.optimizer().start(), s.steps)
    with torch.no_grad():
        after = policy.adapted(tokens[:, :1], tunable, params)[:, 0]
    share = tunable.share_of(policy.backbone)
    k = 0.0 if masked is None else masked.shape[2] / batch.encoded.tokens[0].shape[2]
    backwards = share * s.steps * s.selected * (1 + k)
    forwards = s.views + s.selected * k * (1 - share) + backwards + share
    return Adaptation(views[:, 0], after, Cost(forwards, backwards))


def lora_ttt_method(settings: LoRATTTSettings, name: str = "lora-ttt") -> Method:
    def cached_blocks(backbone: Backbone) -> Sequence[int]:
        return sorted({0, settings.tune(backbone).first_block})

    def run(policy: Policy, batch: ImageBatch, state: State) -> tuple[Adaptation, State]:
        return lora_ttt(policy, batch, settings), state

    return Method(name, "episodic", "none", settings.views, 0, settings, cached_blocks, run)
