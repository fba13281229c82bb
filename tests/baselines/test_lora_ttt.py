from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from grpo_tta.baselines.encoder_entropy import mean_confidence
from grpo_tta.baselines.lora_ttt import (
    LoRATTTSettings,
    attention_deltas,
    kept_tokens,
    lora_ttt_method,
    reconstruction_error,
)
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError


def test_error_by_hand():
    """Squares 4, 0, 1, 1 over two views of two features: 1.5 on average, over a share of 0.75."""
    masked, whole = torch.tensor([[[2.0, 1.0], [0.0, 3.0]]]), torch.tensor([[[0.0, 1.0], [1.0, 4.0]]])
    assert reconstruction_error(masked, whole, 0.75).item() == pytest.approx(2.0)


def test_what_a_masked_view_keeps():
    """Of nine patches a quarter, rounded down, and the class token; other views and images keep others, a name its own."""
    kept = kept_tokens(["p", "q"], 0, 3, 10, 0.75)
    assert kept.shape == (2, 3, 3)
    assert (kept[..., 0] == 0).all()
    assert all(len(set(row)) == 3 and min(row[1:]) >= 1 and max(row) <= 9 for row in kept.flatten(0, 1).tolist())
    assert len({tuple(sorted(row)) for row in kept.flatten(0, 1).tolist()}) > 2
    torch.testing.assert_close(kept[1:], kept_tokens(["q"], 0, 3, 10, 0.75))
    assert kept_tokens(["p"], 0, 1, 5, 1.0).shape == (1, 1, 2)  # never nothing


def test_deltas_lie_on_all_four_projections(backbone):
    tunable = attention_deltas(backbone, 4, 2)
    assert tunable.first_block == 1
    weights = [f"blocks.{n}.attn.{name}" for n in (1, 2) for name in ("in_proj_weight", "out_proj.weight")]
    assert list(tunable.deltas) == weights
    (_, fused), (_, out) = tunable.deltas[weights[0]], tunable.deltas[weights[1]]
    assert [pair.rows for pair in fused] == [slice(0, 64), slice(64, 128), slice(128, 192)]
    assert [pair.rows for pair in out] == [slice(0, 64)]
    assert tunable.shapes[out[0].down] == (4, 64)


def test_deltas_on_separate_projections():
    block = nn.Module()
    block.self_attn = nn.Module()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        setattr(block.self_attn, name, nn.Linear(6, 6))
    block.mlp = nn.Linear(6, 12)
    tunable = attention_deltas(SimpleNamespace(name="own", blocks=[block]), 2, 1)
    assert [name.split(".")[-2] for name in tunable.deltas] == ["q_proj", "k_proj", "v_proj", "out_proj"]
    with pytest.raises(UserError, match="no attention projections"):
        attention_deltas(SimpleNamespace(name="own", blocks=[block.mlp]), 2, 1)


def test_a_step_lowers_both_losses(policy, images, check_method):
    """By another rate than the official one, which moves this model by less than rounding."""
    few = {"views": 6, "selected": 4, "rank": 4, "learning_rate": 2e-2, "weight_decay": 0.0}
    method = lora_ttt_method(LoRATTTSettings(**few))
    check_method(policy, method)
    names = tuple("pqrstuvw")
    plain = lora_ttt_method(LoRATTTSettings(**few, reconstruction=0.0))
    batch = images(policy, method, names)
    alone, both = plain(policy, batch, {})[0], method(policy, batch, {})[0]
    assert entropy(alone.after).mean() < entropy(alone.before).mean()
    assert (alone.after - both.after).abs().max() > 1e-3
    assert alone.cost.of(0)[1] == pytest.approx(2 / 3 * 4)


def test_one_step_is_adamw_on_what_reaches_the_output(policy, images):
    """With B at zero only B has a gradient. Its first AdamW step is of the length of the rate, up the gain's gradient, which is
    found here from the model's own attention with the merged weight."""
    settings = LoRATTTSettings(views=4, selected=4, last_blocks=1, rank=2, learning_rate=1e-2, reconstruction=0.0)
    method = lora_ttt_method(settings)
    batch = images(policy, method, ["p"])
    out, _ = method(policy, batch, {})
    tunable = settings.tune(policy.backbone)
    params = {name: value.detach() for name, value in tunable.start(1).items()}
    block = policy.backbone.blocks[2]
    tokens = batch.encoded.tokens[2][0]

    def merged(ups):
        """The weights with their deltas, as a user of LoRA would merge them."""
        own = {}
        for name, (weight, pairs) in tunable.deltas.items():
            rows = [weight[p.rows] + ups[p.up][0] @ params[p.down][0] for p in pairs]
            own[name.removeprefix("blocks.2.")] = torch.cat(rows)
        return own

    def log_probs(ups, x):
        moved = torch.func.functional_call(block._block, merged(ups), x)
        return policy.log_probs(policy.backbone.head(moved))

    ups = {name: params[name].clone().requires_grad_() for name in params if name.endswith(".B")}
    gain = mean_confidence(log_probs(ups, tokens)[None]).sum()
    gradients = torch.autograd.grad(gain, list(ups.values()))
    stepped = {name: value + 1e-2 * g / (g.abs() + 1e-8) for (name, value), g in zip(ups.items(), gradients, strict=True)}
    # the decay has shrunk A by 0.2 %
    params = {name: value * (1 - 1e-2 * 0.2) for name, value in params.items()}
    with torch.no_grad():
        expected = log_probs(stepped, tokens[:1])
    torch.testing.assert_close(out.after.exp(), expected.exp(), atol=1e-3, rtol=0)
    assert (out.after - out.before).abs().max() > 1e-2


def test_maps_are_refused(policy, images):
    method = lora_ttt_method(LoRATTTSettings(views=2, selected=1))
    batch = images(policy, method)
    batch.encoded.tokens[0] = batch.encoded.tokens[0][..., None]
    with pytest.raises(UserError, match="reads maps"):
        method(policy, batch, {})


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="masked"):
        LoRATTTSettings(masked=0.0)
