"""Towers from open_clip: OpenAI, LAION and DataComp ViTs, timm ViTs (SigLIP among them), and open_clip folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, final

import open_clip
import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_tta.errors import UserError
from grpo_tta.towers.embedded_tokens import EmbeddedTokens

SHIPPED = ("nano-clip",)


@contextlib.contextmanager
def _offline(enabled: bool) -> Iterator[None]:
    """Keeps the hub client off the network unless the user allowed a download."""
    if not enabled:
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # open_clip logs the refused download; the user gets one sentence instead
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        logging.disable(quiet)


@final
class OpenClipTower:
    """A frozen open_clip model, cut into prefix, blocks and head."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
    ) -> None:
        """
        Raises:
            UserError: the visual encoder is of a kind that cannot be cut into blocks yet.
        """
        self.name = name
        self._model: Any = model.eval().requires_grad_(False)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        visual: Any = self._model.visual
        self._cut: _PlainCut | _TimmCut
        if isinstance(visual, VisionTransformer):
            self._cut = _PlainCut(visual)
        elif isinstance(visual, TimmModel) and hasattr(visual.trunk, "blocks") and hasattr(visual.trunk, "_pos_embed"):
            self._cut = _TimmCut(visual)
        else:
            raise UserError(
                f"{name}: the visual encoder {type(visual).__name__} cannot be cut into blocks; use a ViT-based model."
            )
        self.blocks: Sequence[nn.Module] = self._cut.blocks
        self.head_modules: dict[str, nn.Module] = self._cut.head_modules
        size = visual.image_size
        self.image_size = int(size[0] if isinstance(size, tuple | list) else size)
        config = visual.preprocess_cfg
        device: Any = self._model.logit_scale.device
        self.mean = torch.tensor(config["mean"], dtype=torch.float32, device=device)
        self.std = torch.tensor(config["std"], dtype=torch.float32, device=device)
        self.logit_scale = float(torch.as_tensor(self._model.logit_scale).exp())
        self.fingerprint = _fingerprint(model)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.blocks[0].parameters())).dtype

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._preprocess(image)

    def prefix(self, pixels: Tensor) -> Tensor:
        return self._cut.prefix(pixels.to(self.dtype))

    def head(self, tokens: Tensor) -> Tensor:
        return self._cut.head(tokens)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """
        Raises:
            UserError: a prompt does not fit into the model's context and would be cut off silently.
        """
        tokens = self._tokenizer(list(prompts)).to(self.device)
        self._check_length(prompts)
        return self._model.encode_text(tokens)

    @torch.no_grad()
    def embed_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token embeddings `[N, L, W]`, float32 and without positions, and token numbers `[N, L]` of N prompts.

        Raises:
            UserError: a prompt is too long, or this model's text encoder has no token table that can be tuned around.
        """
        self._check_length(prompts)
        tokens = self._tokenizer(list(prompts)).to(self.device)
        return F.embedding(tokens, self._token_table()).float(), tokens

    def encode_embeddings(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """The model's own text encoder with these token embeddings in place of its table's: `[N, L, W]`, `[N, L]` ->
        `[N, D]`, not normalised; carries gradients to the embeddings. The tokens tell padding and where to pool.

        Raises:
            UserError: as `embed_tokens`.
        """
        with EmbeddedTokens(self._token_table(), embeddings):
            return self._model.encode_text(tokens)

    def _token_table(self) -> Tensor:
        table = getattr(getattr(self._model, "text", self._model), "token_embedding", None)
        if not isinstance(table, nn.Embedding):
            raise UserError(f"{self.name}: this tower cannot tune text; use a model with open_clip's own text encoder.")
        return table.weight

    def _check_length(self, prompts: Sequence[str]) -> None:
        # The tokenizer of open_clip cuts long prompts without a word. Its `encode` tells the true length.
        encode = getattr(self._tokenizer, "encode", None)
        limit = getattr(self._tokenizer, "context_length", None)
        if encode is None or limit is None:
            return
        for prompt in prompts:
            if (length := len(encode(prompt)) + 2) > limit:
                raise UserError(
                    f"Prompt {prompt!r} takes {length} tokens, but {self.name} reads {limit}; shorten the label or template."
                )

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()

    def reference_forward(self, pixels: Tensor) -> Tensor:
        """open_clip's own visual forward, `[N, 3, S, S]` -> `[N, D]`: what prefix, blocks and head must equal."""
        return self._model.encode_image(pixels.to(self.dtype))


class _PlainCut:
    """open_clip's own VisionTransformer (OpenAI, LAION, DataComp, nano-clip)."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.blocks = list(visual.transformer.resblocks)
        self.head_modules = {"ln_post": visual.ln_post}
        if visual.attn_pool is not None:
            self.head_modules["attn_pool"] = visual.attn_pool

    def prefix(self, pixels: Tensor) -> Tensor:
        return self._visual._embeds(pixels)

    def head(self, tokens: Tensor) -> Tensor:
        pooled, _ = self._visual._pool(tokens)
        return pooled if self._visual.proj is None else pooled @ self._visual.proj


class _TimmCut:
    """timm's VisionTransformer behind open_clip's adapter (SigLIP, SigLIP 2, other ViTs)."""

    def __init__(self, visual: Any) -> None:
        self._visual, trunk = visual, visual.trunk
        self.blocks = list(trunk.blocks)
        candidates = {"norm": trunk.norm, "attn_pool": getattr(trunk, "attn_pool", None), "fc_norm": trunk.fc_norm}
        self.head_modules = {name: module for name, module in candidates.items() if module is not None}

    def prefix(self, pixels: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(pixels))))

    def head(self, tokens: Tensor) -> Tensor:
        trunk = self._visual.trunk
        return self._visual.head(trunk.forward_head(trunk.norm(tokens)))


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # Some two thousand values and the sum of each tensor tell weights apart without hashing gigabytes.
        flat = tensor.flatten()
        sample = flat[:: max(1, flat.numel() // 2048)].float().cpu().contiguous()
        digest.update(sample.numpy().tobytes() + f"{float(flat.double().sum()):.9e}".encode())
    return digest.hexdigest()


def _folder_of(model: str) -> Path | None:
    if model in SHIPPED:
        return Path(str(files("grpo_tta") / "models" / model))
    path = Path(model)
    return path if path.is_dir() else None


def load(model: str, *, device: torch.device, download: bool) -> OpenClipTower:
    """Loads a shipped model, an open_clip folder, or ARCHITECTURE/PRETRAINED. See `grpo_tta.towers.load_tower`."""
    folder = _folder_of(model)
    if folder is not None:
        return _load_folder(model, folder, device)
    if model.startswith((".", "/", "~")) or model.endswith((".safetensors", ".pt", ".bin")):
        raise UserError(f"{model}: no such model folder; give a folder with open_clip_config.json and its weights.")
    architecture, slash, tag = model.partition("/")
    if architecture not in open_clip.list_models() or not slash or not tag:
        raise UserError(
            f"Unknown model {model!r}; use {', '.join(SHIPPED)}, a folder in open_clip's format, or ARCHITECTURE/PRETRAINED "
            "such as ViT-B-16/openai."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise UserError(f"{architecture} has no pretrained weights {tag!r}; choose one of {', '.join(tags) or 'none'}.")
    try:
        with _offline(not download):
            network, preprocess = open_clip.create_model_from_pretrained(architecture, tag, device=device, weights_only=True)
            tokenizer = open_clip.get_tokenizer(architecture)
    except Exception as error:
        if not download:
            raise UserError(
                f"The weights of {model} are not on this machine; allow the download with --download or name a folder."
            ) from error
        raise UserError(f"The weights of {model} could not be loaded ({error}); check the connection and try again.") from error
    return OpenClipTower(model, network, preprocess, tokenizer)


def _load_folder(model: str, folder: Path, device: torch.device) -> OpenClipTower:
    config_path = folder / "open_clip_config.json"
    if not config_path.is_file():
        raise UserError(f"{folder}: open_clip_config.json is missing; give a folder in open_clip's format.")
    try:
        text_config = json.loads(config_path.read_text())["model_cfg"]["text_cfg"]
    except (ValueError, KeyError) as error:
        raise UserError(f"{config_path} is damaged ({error!r}); write the folder again.") from None
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")) and not any(folder.glob("*.pt*")):
        raise UserError(f"{folder}: the weights are missing; put open_clip_model.safetensors there.")
    source = f"local-dir:{folder}"
    # open_clip reads a vocabulary's path relative to the current directory; a folder's own must work from anywhere.
    vocabulary = text_config.get("tokenizer_kwargs", {}).get("bpe_path")
    arguments = {}
    if vocabulary is not None:
        if not (folder / vocabulary).is_file():
            raise UserError(f"{folder}: the vocabulary {vocabulary} is missing; write the folder again.")
        arguments["bpe_path"] = os.fspath(folder / vocabulary)
    try:
        with _offline(True):
            network, preprocess = open_clip.create_model_from_pretrained(source, device=device, weights_only=True)
            tokenizer = open_clip.get_tokenizer(source, **arguments)
    except Exception as error:
        raise UserError(f"{folder}: the model could not be loaded ({error}); write the folder again.") from error
    return OpenClipTower(model, network, preprocess, tokenizer)
