"""Pairs of any image and any text encoder: transformers' VisionTextDualEncoderModel (LiT, CLIPs in other languages).

A ViT's or CLIP's image encoder is split into stem, blocks and head, where that gives the model's own features on two images
when it is loaded. Any other stays whole, as one block, and a step then costs a full pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor, nn

from grpo_tta.backbones.base import check_square, fingerprint
from grpo_tta.backbones.blocks import BoundBlock
from grpo_tta.errors import UserError


@final
class DualEncoderBackbone:
    """A frozen VisionTextDualEncoderModel."""

    logit_bias: float | None = None

    def __init__(self, name: str, model: Any, image_processor: Any, tokenizer: Any) -> None:
        """
        Args:
            model: VisionTextDualEncoderModel.
            image_processor, tokenizer: the model's own.

        Raises:
            UserError: the parts do not fit together.
        """
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._processor, self._tokenizer = image_processor, tokenizer
        device = model.logit_scale.device
        blank = self.preprocess(Image.new("RGB", (64, 48)))
        self.image_size = check_square(name, tuple(blank.shape[-2:]))
        self.mean = torch.tensor(image_processor.image_mean, dtype=torch.float32, device=device)
        self.std = torch.tensor(image_processor.image_std, dtype=torch.float32, device=device)
        self.logit_scale = float(model.logit_scale.exp())
        text = model.config.text_config
        self._context = min(int(getattr(text, "max_position_embeddings", 512)), int(tokenizer.model_max_length))
        if len(tokenizer) > text.vocab_size:
            raise UserError(
                f"{name}: its tokenizer has {len(tokenizer)} tokens and its text encoder {text.vocab_size}; they are not of "
                "one model, write the files again."
            )
        self._split: _Vit | _Whole = _split(model, self.image_size)
        self.blocks: Sequence[nn.Module] = self._split.blocks
        self.head_modules: dict[str, nn.Module] = self._split.head_modules
        self.fingerprint = fingerprint(model)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self._model.visual_projection.weight.dtype

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0]

    def stem(self, pixels: Tensor) -> Tensor:
        return self._split.stem(pixels.to(self.dtype))

    def head(self, tokens: Tensor) -> Tensor:
        return self._model.visual_projection(self._split.pooled(tokens))

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """
        Raises:
            UserError: a prompt does not fit into the model's context.
        """
        read = self._tokenizer(list(prompts), padding=True, return_tensors="pt").to(self.device)
        if (length := read["input_ids"].shape[1]) > self._context:
            longest = max(prompts, key=len)
            raise UserError(
                f"Prompt {longest!r} takes {length} tokens, but {self.name} reads {self._context}; shorten the label or "
                "template."
            )
        # Shorter prompts are masked, so that a prompt's features do not depend on its neighbours.
        return self._model.get_text_features(**read).pooler_output

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()

    def reference_forward(self, pixels: Tensor) -> Tensor:
        """transformers' own visual forward, `[N, 3, S, S]` -> `[N, D]`: what stem, blocks and head must equal."""
        return self._model.get_image_features(pixel_values=pixels.to(self.dtype)).pooler_output


@torch.no_grad()
def _split(model: Any, size: int) -> _Vit | _Whole:
    vision, weight = model.vision_model, model.visual_projection.weight
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, size, size, generator=generator).to(weight.device, weight.dtype)
    wanted = vision(pixel_values=pixels).pooler_output
    try:
        split = _Vit(vision)
        tokens = split.stem(pixels)
        for block in split.blocks:
            tokens = block(tokens)
        found = split.pooled(tokens)
    except (AttributeError, TypeError, RuntimeError, ValueError):  # another architecture than a plain transformer
        return _Whole(vision)
    near = found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))
    return split if near else _Whole(vision)


@final
class _Vit:
    """A plain transformer as transformers writes ViT and CLIP."""

    def __init__(self, vision: Any) -> None:
        self._vision = vision
        encoder = getattr(vision, "encoder", vision)
        layers = encoder.layers if hasattr(encoder, "layers") else encoder.layer
        self.blocks: list[nn.Module] = [BoundBlock(layer, attention_mask=None) for layer in layers]
        names = ("layernorm", "post_layernorm", "pooler")
        self.head_modules = {name: module for name in names if (module := getattr(vision, name, None)) is not None}

    def stem(self, pixels: Tensor) -> Tensor:
        tokens = self._vision.embeddings(pixels)
        return self._vision.pre_layrnorm(tokens) if hasattr(self._vision, "pre_layrnorm") else tokens

    def pooled(self, tokens: Tensor) -> Tensor:
        if hasattr(self._vision, "post_layernorm"):
            return self._vision.post_layernorm(tokens[:, 0])
        return self._vision.pooler(self._vision.layernorm(tokens))


@final
class _Whole:
    """An image encoder of another kind, not split."""

    def __init__(self, vision: nn.Module) -> None:
        self.blocks: list[nn.Module] = [WholeEncoder(vision)]
        self.head_modules: dict[str, nn.Module] = {}

    def stem(self, pixels: Tensor) -> Tensor:
        return pixels

    def pooled(self, tokens: Tensor) -> Tensor:
        return tokens


@final
class WholeEncoder(nn.Module):
    """Pixels `[N, 3, S, S]` -> pooled features `[N, W]`, as the encoder itself pools them."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixel_values=pixels).pooler_output
