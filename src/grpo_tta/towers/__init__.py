"""What a vision-language model must offer to be adapted: a visual encoder cut into prefix, blocks and head.

The modules below this package are the only ones that import open_clip. Any object with the members of `Tower` can be
adapted, a user's own encoder included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from grpo_tta.errors import UserError


class Tower(Protocol):
    """A frozen CLIP-like model.

    `head(blocks[-1](... blocks[0](prefix(pixels))))` must equal the library's own visual forward. Tokens may have any
    shape whose first axis counts the pictures, as long as the blocks map it to itself.

    Attributes:
        name: what the user called the model.
        fingerprint: changes whenever the weights do.
        image_size: side S of the square input, in pixels.
        mean, std: `[3]` of the input normalisation, on the device.
        logit_scale: s, so that logits are s * cos.
        blocks: the visual encoder's blocks, in order.
        head_modules: modules that `head` runs, by name (their norms can be tuned too).
    """

    name: str
    fingerprint: str
    image_size: int
    mean: Tensor
    std: Tensor
    logit_scale: float
    blocks: Sequence[nn.Module]
    head_modules: dict[str, nn.Module]

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def preprocess(self, image: Image.Image) -> Tensor:
        """The model's own preprocessing of an RGB picture: `[3, S, S]` float32 on the CPU."""
        ...

    def prefix(self, pixels: Tensor) -> Tensor:
        """Tokens that enter the first block: `[N, 3, S, S]` -> `[N, ...]`."""
        ...

    def head(self, tokens: Tensor) -> Tensor:
        """Image features, not normalised: tokens of the last block -> `[N, D]`."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text features, not normalised: N prompts -> `[N, D]`. Raises UserError where a prompt is too long."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter of the frozen model (to check that none is ever changed)."""
        ...


def load_tower(model: str, *, device: str | torch.device = "cpu", download: bool = False) -> Tower:
    """Loads a model by name.

    Args:
        model: `nano-clip` (shipped), a folder in open_clip's format, or `ARCHITECTURE/PRETRAINED` of open_clip, for
            example `ViT-B-16/openai`.
        device: where it runs.
        download: whether weights that are not on disk may be fetched. Never done unasked.

    Raises:
        UserError: unknown name, missing or damaged weights, or a device that is not there.
    """
    from grpo_tta.towers import open_clip

    if isinstance(device, str):
        try:
            device = torch.device(device)
        except RuntimeError:
            raise UserError(f"Unknown device {device!r}; use cpu, cuda or cuda:0.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device is available here; use --device cpu.")
    return open_clip.load(model, device=device, download=download)
