"""A backbone made of a user's own model and three functions: stem, blocks and head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import final

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from grpo_tta.backbones.base import fingerprint
from grpo_tta.errors import UserError


@final
class CustomBackbone:
    """A user's own CLIP-like model, split by hand.

    The model is put in eval mode and its parameters are marked as needing no gradient; their values are never changed.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        stem: Callable[[Tensor], Tensor],
        blocks: Sequence[nn.Module],
        head: Callable[[Tensor], Tensor],
        encode_text: Callable[[Sequence[str]], Tensor],
        image_size: int,
        logit_scale: float,
        logit_bias: float | None = None,
        mean: Sequence[float] = (0.48145466, 0.4578275, 0.40821073),
        std: Sequence[float] = (0.26862954, 0.26130258, 0.27577711),
        preprocess: Callable[[Image.Image], Tensor] | None = None,
        head_modules: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """
        Args:
            name: as it stands in tables.
            model: holds every parameter.
            stem: pixels `[N, 3, S, S]` -> tokens that enter the first block, `[N, ...]`.
            blocks: in order; each maps tokens to new tokens, keeps the first axis and never mixes images.
            head: tokens of the last block -> image features `[N, D]`, not normalised.
            encode_text: N prompts -> text features `[N, D]`, not normalised.
            image_size: S.
            logit_scale: s, so that logits are s * cos (the exponential, not its logarithm).
            logit_bias: b of a model that scores by sigmoid(s * cos + b); None for softmax.
            mean, std: `[3]` of the input normalisation; CLIP's own by default.
            preprocess: RGB image -> `[3, S, S]`; by default the shorter side is resized to S (bicubic), the middle cut out.
            head_modules: modules that `head` runs, by name, whose norms may be tuned too.

        Raises:
            UserError: there are no blocks, or a run over a blank image and a prompt does not end in features of one width.
        """
        if not blocks:
            raise UserError(f"{name}: a backbone needs at least one block.")
        self.name = name
        self._model = model.eval().requires_grad_(False)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.image_size = image_size
        self.mean = torch.tensor(mean, dtype=torch.float32, device=self.device)
        self.std = torch.tensor(std, dtype=torch.float32, device=self.device)
        self.logit_scale, self.logit_bias = float(logit_scale), logit_bias
        self.blocks: Sequence[nn.Module] = list(blocks)
        self.head_modules: dict[str, nn.Module] = dict(head_modules or {})
        self._stem, self._head, self._encode_text = stem, head, encode_text
        self._preprocess = preprocess or v2.Compose(
            [
                v2.Resize(image_size, v2.InterpolationMode.BICUBIC),
                v2.CenterCrop(image_size),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(mean), list(std)),
            ]
        )
        read = self._check()
        # Text features are kept on disk by this name: what the text side says is part of it, and not its weights alone. Its
        # signs, since the last digits differ between machines.
        signs = (read > 0).cpu().numpy().tobytes()
        self.fingerprint = hashlib.blake2b(fingerprint(model).encode() + signs, digest_size=16).hexdigest()

    @torch.no_grad()
    def _check(self) -> Tensor:
        S = self.image_size
        blank = self.preprocess(Image.new("RGB", (2 * S, S)))
        if blank.shape != (3, S, S):
            raise UserError(f"{self.name}: preprocess returned {tuple(blank.shape)}; it must return (3, {S}, {S}).")
        tokens = self.stem(torch.stack([blank, blank]).to(self.device))
        for number, block in enumerate(self.blocks):
            before = tokens.clone()
            after = block(tokens)
            if not torch.equal(before, tokens):  # tokens are kept, and read again after a step
                raise UserError(f"{self.name}: block {number} writes into its input; write x = x + f(x) instead of x += f(x).")
            tokens = after
        seen, read = self.head(tokens), self.encode_text(["a photo", "a drawing"])
        if seen.ndim != 2 or seen.shape != read.shape or len(seen) != 2:
            raise UserError(
                f"{self.name}: two images gave features {tuple(seen.shape)} and two prompts {tuple(read.shape)}; both must "
                "be (2, D) with the same D."
            )
        return read

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._preprocess(image)

    def stem(self, pixels: Tensor) -> Tensor:
        return self._stem(pixels.to(self.dtype))

    def head(self, tokens: Tensor) -> Tensor:
        return self._head(tokens)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        return self._encode_text(prompts)

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()
