from __future__ import annotations

import pytest
import torch

from grpo_tta.baselines.ctpt import CTPTSettings, ctpt_method, dispersion
from grpo_tta.baselines.encoder_entropy import mean_confidence
from grpo_tta.baselines.tpt import ContextPrompts, TPTSettings, tpt_method
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError

FEW = TPTSettings(views=8, selected=3, chunk=2)


def test_dispersion_by_hand():
    """(0, 0), (3, 4), (0, 8) and their mean (1, 4): distances sqrt 17, 2 and sqrt 17."""
    text = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]]])
    assert dispersion(text).item() == pytest.approx((2 * 17**0.5 + 2) / 3)


def test_without_dispersion_it_is_tpt(policy, images):
    method, plain = ctpt_method(CTPTSettings(FEW, 0.0)), tpt_method(FEW)
    batch = images(policy, method)
    torch.testing.assert_close(method(policy, batch, {})[0].after, plain(policy, batch, {})[0].after)


def test_one_step_is_adamw_through_the_whole_text_encoder(policy, images):
    """Against torch's own AdamW on one leaf and one graph, without chunks."""
    method = ctpt_method(CTPTSettings(FEW, 20.0))
    batch = images(policy, method, ["p"])
    out, _ = method(policy, batch, {})

    prompts = ContextPrompts(policy)
    context = torch.nn.Parameter(prompts.context[None].clone())
    optimizer = torch.optim.AdamW([context], lr=5e-3, weight_decay=0.01)
    chosen = batch.encoded.features[0, entropy(batch.encoded.log_probs[0]).argsort()[:3]]
    scale = policy.backbone.logit_scale
    text = prompts.encode(context, torch.arange(5))
    loss = -mean_confidence((scale * chosen @ text.T).log_softmax(-1)[None]).sum() - 20 * dispersion(text[None]).sum()
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        moved = prompts.encode(context, torch.arange(5))
    torch.testing.assert_close(
        out.after[0], (scale * batch.encoded.features[0, 0] @ moved.T).log_softmax(-1), atol=1e-4, rtol=0
    )
    assert dispersion(moved[None]) > dispersion(text[None])
    plain, _ = tpt_method(FEW)(policy, batch, {})
    assert (out.after - plain.after).abs().max() > 1e-4


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="dispersion"):
        CTPTSettings(dispersion=-1.0)
