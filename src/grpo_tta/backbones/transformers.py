"""Backbones from transformers: CLIP, SigLIP, SigLIP 2 and dual encoders, from a repository of the hub or a folder.

SigLIP 2 comes in two forms. Checkpoints of fixed resolution are plain SigLIPs. Those of variable resolution ("naflex") are
read here as a square grid of patches, the one that their position table was made for, so that the views of a batch have
one size; an image is squeezed into the square, as SigLIP does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, final

import numpy as np
import torch
from open_clip.tokenizer import get_clean_fn
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoTokenizer,
    CLIPModel,
    Siglip2Model,
    SiglipModel,
    VisionTextDualEncoderModel,
)
from transformers.utils import logging

from grpo_tta.backbones.base import check_square, fingerprint
from grpo_tta.backbones.blocks import BoundBlock, EmbeddedTokens
from grpo_tta.backbones.dual_encoder import DualEncoderBackbone
from grpo_tta.backbones.hub import check_on_disk, failure, offline
from grpo_tta.backbones.names import Source
from grpo_tta.errors import UserError

DUAL = "vision-text-dual-encoder"
MODELS = {"clip": CLIPModel, "siglip": SiglipModel, "siglip2": Siglip2Model, DUAL: VisionTextDualEncoderModel}
"""By `model_type` of the configuration."""


@final
class TransformersBackbone:
    """A frozen CLIP, SigLIP or SigLIP 2 of transformers, split into stem, blocks and head."""

    def __init__(self, name: str, model: Any, image_processor: Any, tokenizer: Any) -> None:
        """
        Args:
            model: CLIPModel, SiglipModel or Siglip2Model.
            image_processor: the model's own; for exact agreement with training one with `backend="pil"`.
            tokenizer: the model's own.

        Raises:
            UserError: the parts do not fit together.
        """
        self.name = name
        self._model = model.eval().requires_grad_(False)
        self._processor, self._tokenizer = image_processor, tokenizer
        self._kind = model.config.model_type
        vision_config, text_config = model.config.vision_config, model.config.text_config
        self._vision: Any = model.vision_model
        self.blocks: Sequence[nn.Module] = [BoundBlock(layer, attention_mask=None) for layer in self._vision.encoder.layers]
        self.head_modules: dict[str, nn.Module] = {"post_layernorm": self._vision.post_layernorm}
        if self._kind != "clip":
            if not getattr(self._vision, "use_head", True):
                raise UserError(f"{name}: this SigLIP has no pooling head, so it cannot be compared with text.")
            self.head_modules["head"] = self._vision.head
        self._grid = round(vision_config.num_patches**0.5) if self._kind == "siglip2" else 0
        self._patch = int(vision_config.patch_size)
        self.image_size = self._grid * self._patch or check_square(name, vision_config.image_size)
        device = model.logit_scale.device
        normalised = image_processor.do_normalize
        self.mean = torch.tensor(image_processor.image_mean if normalised else [0.0] * 3, dtype=torch.float32, device=device)
        self.std = torch.tensor(image_processor.image_std if normalised else [1.0] * 3, dtype=torch.float32, device=device)
        self.logit_scale = float(model.logit_scale.exp())
        self.logit_bias = float(model.logit_bias) if self._kind != "clip" else None
        self._context = int(text_config.max_position_embeddings)
        # SigLIP was trained on canonical text: lower case, no punctuation. CLIP's tokenizer lowers case by itself; Gemma's,
        # which SigLIP 2 uses, may not. open_clip does the same before it calls the tokenizer.
        self._clean = get_clean_fn("canonicalize") if self._kind != "clip" else str
        if len(tokenizer) > text_config.vocab_size:
            raise UserError(
                f"{name}: its tokenizer has {len(tokenizer)} tokens and its text encoder {text_config.vocab_size}; they are "
                "not of one model, write the files again."
            )
        if not _distinguishes_words(tokenizer):
            raise UserError(f"{name}: its tokenizer cannot distinguish words; write the tokenizer's files again.")
        if (size := self.preprocess(Image.new("RGB", (64, 48))).shape[-2:]) != (self.image_size, self.image_size):
            raise UserError(
                f"{name}: its preprocessing makes images of {size[0]} x {size[1]} pixels, but it reads {self.image_size} x "
                f"{self.image_size}; put the right preprocessor_config.json there."
            )
        self.fingerprint = fingerprint(model)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return self._vision.post_layernorm.weight.dtype

    def preprocess(self, image: Image.Image) -> Tensor:
        if self._kind != "siglip2":
            return self._processor(images=image, return_tensors="pt")["pixel_values"][0]
        small = image.resize((self.image_size, self.image_size), Image.Resampling(self._processor.resample))
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).float() / 255
        return (pixels - self.mean.cpu()[:, None, None]) / self.std.cpu()[:, None, None]

    def stem(self, pixels: Tensor) -> Tensor:
        pixels = pixels.to(self.dtype)
        if self._kind == "siglip2":
            return self._vision.embeddings(*self._patches(pixels))
        tokens = self._vision.embeddings(pixels)
        return self._vision.pre_layrnorm(tokens) if self._kind == "clip" else tokens

    def head(self, tokens: Tensor) -> Tensor:
        if self._kind == "clip":
            return self._model.visual_projection(self._vision.post_layernorm(tokens[:, 0]))
        return self._vision.head(self._vision.post_layernorm(tokens))

    def _patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """SigLIP 2's input: `[N, 3, S, S]` -> patches `[N, G * G, P * P * 3]` and the grid of each image, `[N, 2]`."""
        N, G, P = len(pixels), self._grid, self._patch
        patches = pixels.reshape(N, 3, G, P, G, P).permute(0, 2, 4, 3, 5, 1).reshape(N, G * G, P * P * 3)
        return patches, torch.full((N, 2), G, device=pixels.device)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """
        Raises:
            UserError: a prompt does not fit into the model's context.
        """
        return self._encode(self.tokenize(prompts))

    @torch.no_grad()
    def embed_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token embeddings `[N, L, W]`, float32 and without positions, and token numbers `[N, L]` of N prompts.

        Raises:
            UserError: a prompt is too long.
        """
        tokens = self.tokenize(prompts)
        return F.embedding(tokens, self._token_table()).float(), tokens

    def encode_embeddings(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """The model's own text encoder with these token embeddings in place of its table's: `[N, L, W]`, `[N, L]` ->
        `[N, D]`, not normalised; carries gradients to the embeddings. The tokens say what is padding and where to pool."""
        with EmbeddedTokens(self._token_table(), embeddings):
            return self._encode(tokens)

    def _encode(self, tokens: Tensor) -> Tensor:
        # No mask: CLIP's causal encoder never sees the padding behind its end, and SigLIP was trained to see it.
        return self._model.get_text_features(input_ids=tokens).pooler_output

    def _token_table(self) -> Tensor:
        return self._model.text_model.embeddings.token_embedding.weight

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers `[N, L]` of N prompts.

        Raises:
            UserError: as `encode_text`.
        """
        texts = [self._clean(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, self._tokenizer(texts, verbose=False)["input_ids"], strict=True):
            if len(ids) > self._context:
                raise UserError(
                    f"Prompt {prompt!r} takes {len(ids)} tokens, but {self.name} reads {self._context}; "
                    "shorten the label or template."
                )
        # One length for all prompts, so that a prompt's features do not depend on its neighbours.
        padded = self._tokenizer(texts, padding="max_length", max_length=self._context, return_tensors="pt")
        return padded["input_ids"].to(self.device)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()

    def reference_forward(self, pixels: Tensor) -> Tensor:
        """transformers' own visual forward, `[N, 3, S, S]` -> `[N, D]`: what stem, blocks and head must equal."""
        pixels = pixels.to(self.dtype)
        if self._kind != "siglip2":
            return self._model.get_image_features(pixel_values=pixels).pooler_output
        patches, grids = self._patches(pixels)
        seen = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        return self._model.get_image_features(
            pixel_values=patches, pixel_attention_mask=seen, spatial_shapes=grids
        ).pooler_output


def _distinguishes_words(tokenizer: Any) -> bool:
    """Whether it knows any words: transformers makes an empty tokenizer where it does not find what it needs."""
    try:
        return tokenizer("cat")["input_ids"] != tokenizer("dog")["input_ids"]
    except Exception:  # an empty one may also fail, with an exception of no particular class
        return False


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """transformers draws a bar while it reads weights that lie on the disk."""
    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def load(
    source: Source, *, device: torch.device, download: bool, dtype: torch.dtype = torch.float32
) -> TransformersBackbone | DualEncoderBackbone:
    """Loads a repository of the hub or a folder. See `grpo_tta.backbones.base.load_backbone`.

    Raises:
        UserError: something would have to be downloaded and may not be, cannot be loaded, or is of another kind.
    """
    if source.folder or not download:
        check_on_disk(source)
    place = str(source.folder or source.repository)
    local = source.folder is not None or not download
    try:
        with offline(local), _without_bars():
            config = AutoConfig.from_pretrained(place, local_files_only=local)
            if config.model_type not in MODELS:
                raise UserError(
                    f"{source.name} is a model of type {config.model_type!r} of transformers; CLIP, SigLIP, SigLIP 2 and "
                    "dual encoders can be adapted, and for an open_clip repository write hf-hub: before its name."
                )
            model, report = MODELS[config.model_type].from_pretrained(
                place, config=config, dtype=torch.float32, local_files_only=local, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=local)
            processor = AutoImageProcessor.from_pretrained(place, backend="pil", local_files_only=local)
    except UserError:
        raise
    except Exception as error:
        raise failure(source.name, error, download=download, folder=source.folder is not None) from error
    # transformers fills what it does not find with random numbers and only logs it.
    bad = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report[kind])
    if bad:
        raise UserError(f"{source.name}: its weights lack {bad[0]} ({len(bad)} in all); write its files again.")
    model.vision_model.to(dtype)
    if config.model_type in ("clip", DUAL):
        model.visual_projection.to(dtype)
    if config.model_type == DUAL:
        return DualEncoderBackbone(source.name, model.to(device), processor, tokenizer)
    return TransformersBackbone(source.name, model.to(device), processor, tokenizer)
