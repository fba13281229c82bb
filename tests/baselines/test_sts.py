from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from grpo_tta.baselines.encoder_entropy import mean_confidence
from grpo_tta.baselines.sts import STSSettings, spectral_basis, steered_log_probs, sts, sts_method
from grpo_tta.engine.distributions import entropy
from grpo_tta.errors import UserError


def test_the_basis_by_hand():
    """Singular values 9, 4, 1, 0.5 of a 4 x 4 matrix: omega(1) = 2.86, the median is 2.5, the threshold 7.15."""
    basis = spectral_basis(torch.diag(torch.tensor([0.5, 9.0, 1.0, 4.0])))
    torch.testing.assert_close(basis.abs(), torch.tensor([[0.0], [1.0], [0.0], [0.0]]))


def test_the_basis_is_never_empty():
    """Four equal singular values: none is above the threshold, and the first direction is taken."""
    assert spectral_basis(torch.eye(4)).shape == (4, 1)


def test_a_wider_matrix_has_a_lower_threshold():
    """5 x 300: omega(1/60) = 1.46, the median is 2 and the threshold 2.92, above which are 9 and 4; a square's is 5.72."""
    rows = torch.zeros(5, 300)
    rows[range(5), range(5)] = torch.tensor([9.0, 4.0, 2.0, 1.0, 0.5])
    assert spectral_basis(rows).shape == (300, 2)
    assert spectral_basis(rows[:, :5]).shape == (5, 1)


def test_the_closed_form_is_the_cosine_with_the_steered_prototypes():
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    views = F.normalize(torch.randn(2, 3, 8, generator=generator), dim=-1)
    basis = torch.linalg.qr(torch.randn(8, 2, generator=generator)).Q
    gamma = 0.3 * torch.randn(2, 2, generator=generator)
    found = steered_log_probs(views @ text.T, views @ basis, text @ basis, gamma, 20.0)
    steered = F.normalize(text + (gamma @ basis.T)[:, None], dim=-1)  # [B, C, D]
    expected = (20 * torch.einsum("bmd,bcd->bmc", views, steered)).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_one_step_is_adamw_on_the_coefficients(policy, images):
    """Against torch's own AdamW, with the prototypes themselves."""
    settings = STSSettings(views=8, selected=3, learning_rate=0.5)
    method = sts_method(settings)
    batch = images(policy, method, ["p"])
    out, _ = method(policy, batch, {})

    text, basis, scale = policy.text_features, spectral_basis(policy.text_features), policy.backbone.logit_scale
    chosen = batch.encoded.features[0, entropy(batch.encoded.log_probs[0]).argsort()[:3]]
    gamma = torch.nn.Parameter(torch.zeros(basis.shape[1]))
    optimizer = torch.optim.AdamW([gamma], lr=0.5)

    def log_probs():
        return (scale * chosen @ F.normalize(text + basis @ gamma, dim=-1).T).log_softmax(-1)

    (-mean_confidence(log_probs()[None]).sum()).backward()
    optimizer.step()
    expected = log_probs().exp().mean(0).detach()
    torch.testing.assert_close(out.after[0].exp(), expected, atol=1e-5, rtol=0)
    before = batch.encoded.log_probs[0, entropy(batch.encoded.log_probs[0]).argsort()[:3]].exp().mean(0)
    assert (out.after[0].exp() - before).abs().max() > 1e-3  # the step did something


def test_the_ensemble_has_prototypes_of_its_own(policy, images):
    method = sts_method(STSSettings(views=4, selected=4))
    batch = images(policy, method)
    alone = sts(policy, batch.encoded, STSSettings(views=4, selected=4))
    ensemble = sts(policy, batch.encoded, STSSettings(views=4, selected=4, ensemble=True))
    assert (alone.after - ensemble.after).abs().max() > 1e-3


def test_refuses_bad_settings():
    with pytest.raises(UserError, match="1 to 4"):
        STSSettings(views=4, selected=5)
