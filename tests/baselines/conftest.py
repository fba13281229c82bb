"""A tiny random CLIP with a real text encoder, and batches of noise: enough to run every baseline end to end in no time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import open_clip
import pytest
import torch
from torch import Tensor

from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.backbones.prompts import make_prompts
from grpo_tta.engine.encode import encode_views
from grpo_tta.engine.interface import ImageBatch, Method
from grpo_tta.engine.policy import Policy

LABELS = ("ant", "bee", "cat", "dog", "elk")
CONTEXT = 12
VISION = {"image_size": 24, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": CONTEXT, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}


class WordTokenizer:
    """One token a word, numbered by first use; start 298, end 299 (the highest, where CLIP pools), padding 0.

    Cuts long prompts without a word, as open_clip's tokenizer does.
    """

    context_length = CONTEXT

    def __init__(self) -> None:
        self.words: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self.words.setdefault(word, len(self.words) + 1) for word in text.replace(".", " .").split()]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        out = torch.zeros(len(texts), CONTEXT, dtype=torch.long)
        for row, text in zip(out, texts, strict=True):
            tokens = [298, *self.encode(text)[: CONTEXT - 2], 299]
            row[: len(tokens)] = torch.tensor(tokens)
        return out


def make_backbone(seed: int = 0, custom_text: bool = False, image_size: int = 24) -> OpenClipBackbone:
    torch.manual_seed(seed)
    kind = open_clip.model.CustomTextCLIP if custom_text else open_clip.model.CLIP
    model = kind(embed_dim=32, vision_cfg=VISION | {"image_size": image_size}, text_cfg=TEXT)
    model.visual.preprocess_cfg = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
        for parameter in model.parameters():  # random norms too, so that no affine is trivially one or zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    return OpenClipBackbone("tiny", model, lambda image: torch.zeros(3, 24, 24), WordTokenizer())


@pytest.fixture(autouse=True)
def _one_thread_and_own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_TTA_CACHE", str(tmp_path))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny_backbone() -> Callable[..., OpenClipBackbone]:
    return make_backbone


@pytest.fixture
def backbone() -> OpenClipBackbone:
    return make_backbone()


@pytest.fixture
def policy(backbone) -> Policy:
    return Policy(backbone, make_prompts(backbone, LABELS, ensemble=("a photo of a {}.", "art of a {}.", "{} here.")))


def make_images(policy: Policy, method: Method, names: Sequence[str] = ("p", "q", "r")) -> ImageBatch:
    """Noise images, each drawn from its name, with the views that the method needs."""
    views = []
    for name in names:
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        base = torch.randn(1, 3, 24, 24, generator=generator)
        views.append(base + 0.5 * torch.randn(method.views, 3, 24, 24, generator=generator))
    stacked = torch.stack(views)
    none = stacked[:, :0]
    return ImageBatch(
        tuple(names), stacked, none, encode_views(policy, stacked, none, method.cached_blocks(policy.backbone)), 0
    )


def _check_method(policy: Policy, method: Method) -> None:
    weights = [parameter.clone() for parameter in policy.backbone.parameters()]
    batch = make_images(policy, method)
    out, state = method(policy, batch, {})
    assert out.before.shape == out.after.shape == (3, len(LABELS))
    assert torch.isfinite(out.after).all()
    assert not out.after.requires_grad
    torch.testing.assert_close(out.after.exp().sum(-1), torch.ones(3))
    torch.testing.assert_close(out.before, batch.encoded.log_probs[:, 0])
    assert all(torch.equal(a, b) for a, b in zip(weights, policy.backbone.parameters(), strict=True))
    if method.protocol == "online":
        return
    assert state == {}
    if method.protocol == "episodic":
        for number, name in enumerate(batch.image_ids):
            alone, _ = method(policy, make_images(policy, method, [name]), {})
            torch.testing.assert_close(alone.after[0].exp(), out.after[number].exp(), atol=1e-4, rtol=0)


@pytest.fixture
def check_method() -> Callable[[Policy, Method], None]:
    """Predictions are distributions, the frozen weights stay bitwise as they were, and an image alone is predicted as in
    a batch (episodic methods)."""
    return _check_method


@pytest.fixture
def images() -> Callable[..., ImageBatch]:
    return make_images
