"""Backbones from open_clip: names that it knows, repositories of the hub in its format, and folders (kinds: `catalogue`)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from grpo_tta.backbones.base import check_square, fingerprint
from grpo_tta.backbones.blocks import EmbeddedTokens, split
from grpo_tta.backbones.checkpoint import load_into, read_checkpoint
from grpo_tta.backbones.hub import check_on_disk, failure, offline
from grpo_tta.backbones.names import Source
from grpo_tta.errors import UserError

_log = logging.getLogger(__name__)
_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")


@final
class OpenClipBackbone:
    """A frozen open_clip model, split into stem, blocks and head."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocess: Callable[[Image.Image], Tensor],
        tokenizer: Callable[[list[str]], Tensor],
    ) -> None:
        """
        Raises:
            UserError: the visual encoder is of a kind that cannot be split into blocks yet.
        """
        self.name = name
        self._model: Any = model.eval().requires_grad_(False)
        self._preprocess = preprocess
        self._tokenizer = tokenizer
        visual: Any = self._model.visual
        found = split(visual)
        if found is None:
            kind = type(getattr(visual, "trunk", visual)).__name__
            raise UserError(
                f"{name}: the visual encoder {kind} cannot be split into blocks; `grpo-tta models` lists the families that can."
            )
        self._split = found
        self.blocks: Sequence[nn.Module] = found.blocks
        self.head_modules: dict[str, nn.Module] = found.head_modules
        self.image_size = check_square(name, visual.image_size)
        config = visual.preprocess_cfg
        device: Any = self._model.logit_scale.device
        self.mean = torch.tensor(config["mean"], dtype=torch.float32, device=device)
        self.std = torch.tensor(config["std"], dtype=torch.float32, device=device)
        self.logit_scale = float(torch.as_tensor(self._model.logit_scale).exp())
        bias = getattr(self._model, "logit_bias", None)
        self.logit_bias = None if bias is None else float(bias)
        self.fingerprint = fingerprint(model)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.blocks[0].parameters())).dtype

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._preprocess(image)

    def stem(self, pixels: Tensor) -> Tensor:
        return self._split.stem(pixels.to(self.dtype))

    def head(self, tokens: Tensor) -> Tensor:
        return self._split.head(tokens)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """
        Raises:
            UserError: a prompt does not fit into the model's context and would be cut off silently.
        """
        return self._model.encode_text(self.tokenize(prompts))

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers `[N, L]` of N prompts.

        Raises:
            UserError: as `encode_text`.
        """
        self._check_length(prompts)
        return self._tokenizer(list(prompts)).to(self.device)

    @torch.no_grad()
    def embed_tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token embeddings `[N, L, W]`, float32 and without positions, and token numbers `[N, L]` of N prompts.

        Raises:
            UserError: a prompt is too long, or this model's text encoder has no token table that can be tuned around.
        """
        tokens = self.tokenize(prompts)
        return F.embedding(tokens, self._token_table()).float(), tokens

    def encode_embeddings(self, embeddings: Tensor, tokens: Tensor) -> Tensor:
        """The model's own text encoder with these token embeddings in place of its table's: `[N, L, W]`, `[N, L]` ->
        `[N, D]`, not normalised; carries gradients to the embeddings. The tokens say what is padding and where to pool.

        Raises:
            UserError: as `embed_tokens`.
        """
        with EmbeddedTokens(self._token_table(), embeddings):
            return self._model.encode_text(tokens)

    def _token_table(self) -> Tensor:
        table = getattr(getattr(self._model, "text", self._model), "token_embedding", None)
        if not isinstance(table, nn.Embedding):
            raise UserError(f"{self.name}: this backbone cannot tune text; use a model with open_clip's own text encoder.")
        return table.weight

    def _check_length(self, prompts: Sequence[str]) -> None:
        # The tokenizers of open_clip cut long prompts without a word.
        limit = getattr(self._tokenizer, "context_length", None)
        if limit is None:
            return
        for prompt in prompts:
            if (length := self._length(prompt)) > limit:
                raise UserError(
                    f"Prompt {prompt!r} takes {length} tokens, but {self.name} reads {limit}; shorten the label or template."
                )

    def _length(self, prompt: str) -> int:
        if (encode := getattr(self._tokenizer, "encode", None)) is not None:
            return len(encode(prompt)) + 2  # open_clip's own, without start and end
        wrapped: Any = self._tokenizer  # around one of transformers
        return len(wrapped.tokenizer(wrapped.clean_fn(prompt), verbose=False)["input_ids"])

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()

    def reference_forward(self, pixels: Tensor) -> Tensor:
        """open_clip's own visual forward, `[N, 3, S, S]` -> `[N, D]`: what stem, blocks and head must equal."""
        return self._model.encode_image(pixels.to(self.dtype))


def pretrained_tags() -> dict[str, list[str]]:
    """Architecture -> the tags of its weights, for all that open_clip knows."""
    return {name: open_clip.list_pretrained_tags_by_model(name) for name in open_clip.list_models()}


def load(source: Source, *, device: torch.device, download: bool, dtype: torch.dtype = torch.float32) -> OpenClipBackbone:
    """Loads an architecture with its weights, a repository of the hub, or a folder. See `backbones.base.load_backbone`.

    Raises:
        UserError: something would have to be downloaded and may not be, or cannot be loaded.
    """
    if source.folder or not download:
        check_on_disk(source)
    arguments = {}
    if source.folder:
        place = f"local-dir:{source.folder}"
        arguments = _vocabulary(source.folder)
    elif source.repository:
        place = f"hf-hub:{source.repository}"
    else:
        place = source.architecture
    # open_clip only warns where weights were trained with quick-GELU (OpenAI's) and the architecture's name does not say so.
    quick = bool(source.tag) and open_clip.get_pretrained_cfg(source.architecture, source.tag).get("quick_gelu", False)
    checkpoint = None if source.weights is None else read_checkpoint(source.weights)
    preprocessing = {} if checkpoint is None else _published_preprocessing(source)
    try:
        with offline(not download or source.folder is not None):
            if checkpoint is None:
                network, preprocess = open_clip.create_model_from_pretrained(
                    place, source.tag or None, device=device, force_quick_gelu=quick, weights_only=True
                )
            else:
                network, preprocess = _without_weights(place, quick, preprocessing)
            tokenizer = open_clip.get_tokenizer(place, **arguments)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{source.name} needs {error.name} for its text; install it with: pip install 'grpo-tta[transformers]'."
        ) from error
    except Exception as error:
        raise failure(source.name, error, download=download, folder=source.folder is not None) from error
    if checkpoint is not None:
        load_into(network, checkpoint)
        network.to(device)
    network.visual.to(dtype)
    backbone = OpenClipBackbone(source.name, network, preprocess, tokenizer)
    if checkpoint is not None:  # another file is another model, whatever a sample of its weights shows
        both = f"{backbone.fingerprint} {checkpoint.digest}"
        backbone.fingerprint = hashlib.blake2b(both.encode(), digest_size=16).hexdigest()
    return backbone


def _without_weights(
    place: str, quick: bool, preprocessing: Mapping[str, Any]
) -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
    """An architecture on the CPU whose weights are still to come, and its preprocessing."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # it warns of random weights
    try:
        network = open_clip.create_model(
            place,
            load_weights=False,
            pretrained_text=False,
            force_quick_gelu=quick,
            force_preprocess_cfg=dict(preprocessing),
        )
    finally:
        logging.disable(level)
    config = PreprocessCfg(**network.visual.preprocess_cfg)
    return network, image_transform_v2(config, is_train=False)


def _published_preprocessing(source: Source) -> dict[str, Any]:
    """Preprocessing of the tag; without one what all published weights of the architecture share, else open_clip's default."""
    if not source.architecture:  # a folder has its own
        return {}
    tags = [source.tag] if source.tag else open_clip.list_pretrained_tags_by_model(source.architecture)
    published = [open_clip.get_pretrained_cfg(source.architecture, tag) for tag in tags]
    if len({str([config.get(name) for name in ("quick_gelu", *_PREPROCESSING)]) for config in published}) > 1:
        _log.warning(
            f"{source.name}: published weights of {source.architecture} differ in activation or preprocessing, and open_clip's "
            f"default is taken; where yours were tuned from some of them, name these too, such as "
            f"--model {source.architecture}/{tags[0]}."
        )
        return {}
    return {name: config[name] for config in published[:1] for name in _PREPROCESSING if name in config}


def _vocabulary(folder: Path) -> dict[str, str]:
    """open_clip reads a vocabulary's path relative to the current directory; a folder's own must work from anywhere."""
    text_config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"].get("text_cfg", {})
    name = text_config.get("tokenizer_kwargs", {}).get("bpe_path")
    if name is None:
        return {}
    if not (folder / name).is_file():
        raise UserError(f"{folder}: the vocabulary {name} is missing; write the folder again.")
    return {"bpe_path": os.fspath(folder / name)}
