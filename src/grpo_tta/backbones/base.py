"""What a vision-language model must offer to be adapted: a visual encoder split into stem, blocks and head.

The modules below this package are the only ones that import open_clip and transformers. Any object with the members of
`Backbone` can be adapted, a user's own encoder included (`backbones.custom.CustomBackbone` makes one of a few functions).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

from grpo_tta.backbones.hardware import choose_device, choose_dtype
from grpo_tta.errors import UserError


class Backbone(Protocol):
    """A frozen CLIP-like model.

    `head(blocks[-1](... blocks[0](stem(pixels))))` must equal the library's own visual forward. Tokens may have any
    shape whose first axis counts the images; from block to block it may change (the maps of a ResNet do).

    Attributes:
        name: what the user called the model.
        fingerprint: changes whenever the weights do.
        image_size: side S of the square input, in pixels.
        mean, std: `[3]` of the input normalisation, on the device.
        logit_scale: s, so that logits are s * cos.
        logit_bias: b of a model that scores each label by itself, sigmoid(s * cos + b) (SigLIP); None for softmax.
        blocks: the visual encoder's blocks, in order.
        head_modules: modules that `head` runs, by name (their norms can be tuned too).
    """

    name: str
    fingerprint: str
    image_size: int
    mean: Tensor
    std: Tensor
    logit_scale: float
    logit_bias: float | None
    blocks: Sequence[nn.Module]
    head_modules: dict[str, nn.Module]

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def preprocess(self, image: Image.Image) -> Tensor:
        """The model's own preprocessing of an RGB image: `[3, S, S]` float32 on the CPU."""
        ...

    def stem(self, pixels: Tensor) -> Tensor:
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


@runtime_checkable
class HasClassRows(Protocol):
    """What a backbone offers beside `Backbone` whose classes are rows of a layer and no prompts."""

    def class_rows(self, labels: Sequence[str]) -> Tensor:
        """C labels -> their rows `[C, D]`, not normalised. Raises UserError where a label is none of the classes."""
        ...


Dtype = Literal["float32", "bfloat16", "auto"]


@torch.inference_mode(False)  # its parameters take part in steps later
def load_backbone(
    model: str,
    *,
    device: str | torch.device = "auto",
    download: bool = False,
    dtype: Dtype = "float32",
    weights: str | Path | None = None,
    class_names: Mapping[str, str] | Sequence[str] | None = None,
) -> Backbone:
    """Loads a model by name.

    Args:
        model: `nano-clip` or `photo-clip` (shipped), `ARCHITECTURE/PRETRAINED` of open_clip (`ViT-B-16/openai`),
            `hf-hub:ORG/NAME` of open_clip's hub, `ORG/NAME` of a CLIP, SigLIP or SigLIP 2 in transformers' format, a folder
            in either format (open_clip's where it holds both), or an image classifier: `timm:NAME`, `torchvision:NAME` or a
            folder in timm's format. `@S` behind a classifier reads whole images at S pixels.
        device: where it runs. `auto` is a CUDA device where there is one, else the CPU.
        download: whether what is not on disk may be fetched. Never done unasked.
        dtype: of the frozen visual encoder; text and each image's own parameters stay float32. bfloat16 is faster
            where the processor multiplies it faster, and may change answers that are nearly tied. `auto` takes it there.
        weights: a checkpoint of open_clip (`.pt`, `.pth`, `.bin` or `.safetensors`) for `model`, which is then an
            architecture (`ViT-B-16`), one with the weights that it was tuned from (`ViT-B-16/openai`), or a folder. Of an image
            classifier the file of its weights.
        class_names: of an image classifier, in the order of its logits, or label -> name. By default those of its folder, or
            ImageNet-1k's where it has a thousand classes.

    Raises:
        UserError: unknown name or dtype, missing or damaged weights, or a device that is not there.
    """
    from grpo_tta.backbones import open_clip
    from grpo_tta.backbones.classifier_names import classifier_source
    from grpo_tta.backbones.names import resolve

    device = check_device(device)
    dtype = choose_dtype(device)[0] if check_dtype(dtype) == "auto" else dtype
    trunk = torch.float32 if dtype == "float32" else torch.bfloat16
    if (classifier := classifier_source(model)) is not None:
        from grpo_tta.backbones import classifier_files

        with torch.random.fork_rng(devices=[]):
            return classifier_files.load(classifier, weights, class_names, device=device, download=download, dtype=trunk)
    if class_names is not None:
        raise UserError(f"{model} is no image classifier; class names of one's own go with timm: or torchvision:.")
    source = resolve(model, open_clip.pretrained_tags(), weights)
    with torch.random.fork_rng(devices=[]):  # weights are drawn before they are read; the caller's own numbers are not used up
        if source.library == "open_clip":
            return open_clip.load(source, device=device, download=download, dtype=trunk)
        try:
            from grpo_tta.backbones import transformers
        except ModuleNotFoundError as error:
            raise UserError(f"{model} needs {error.name}; install it with: pip install 'grpo-tta[transformers]'.") from error
        return transformers.load(source, device=device, download=download, dtype=trunk)


def check_device(device: str | torch.device) -> torch.device:
    """The device of that name; of `auto` the one that it stands for.

    Raises:
        UserError: unknown, not there, or one that holds no numbers (`meta`).
    """
    if device == "auto":
        return choose_device()
    if isinstance(device, str):
        try:
            device = torch.device(device)
        except RuntimeError:
            raise UserError(f"Unknown device {device!r}; use cpu, cuda, cuda:0 or auto.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("No CUDA device is available here; use --device cpu.")
    try:
        torch.ones(1, device=device).cpu()
    except Exception:  # every kind of device has an exception of its own
        raise UserError(f"The device {str(device)!r} cannot be used here; use --device cpu.") from None
    return device


def check_square(name: str, size: object) -> int:
    """
    Args:
        size: of a model's input in pixels: a number, or height and width.

    Raises:
        UserError: they differ.
    """
    height, width = (int(side) for side in size) if isinstance(size, tuple | list) else (int(cast(Any, size)),) * 2
    if height != width:
        raise UserError(f"{name} reads images of {height} x {width} pixels, and only square ones can be adapted; use another.")
    return height


def check_dtype(name: str) -> Dtype:
    """
    Raises:
        UserError: unknown dtype.
    """
    for known in get_args(Dtype):
        if name == known:
            return known
    raise UserError(f"Unknown dtype {name!r}; use {' or '.join(get_args(Dtype))}.")


def check_backbone(backbone: object) -> Backbone:
    """A user's own backbone, if it has all the members of `Backbone`.

    Raises:
        UserError: some are missing; they are named.
    """
    missing = [name for name in (*Backbone.__annotations__, *_METHODS) if not hasattr(backbone, name)]
    if missing:
        raise UserError(
            f"A model must be a name or a backbone, but {type(backbone).__name__} has no {', '.join(missing)}; "
            "see grpo_tta.backbones.base.Backbone, or make one with grpo_tta.backbones.custom.CustomBackbone."
        )
    return cast(Backbone, backbone)


def fingerprint(model: nn.Module) -> str:
    """Changes whenever a weight or buffer does, but for changes that neither its sample nor its sum shows, and whenever a layer
    is of another kind: the same weights with another activation are another model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, module in model.named_modules():
        digest.update(f"{name}{type(module).__qualname__}".encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # Some two thousand values and the sum of each tensor distinguish weights without hashing gigabytes.
        flat = tensor.flatten()
        sample = flat[:: max(1, flat.numel() // 2048)].float().cpu().contiguous()
        digest.update(sample.numpy().tobytes() + f"{float(flat.double().sum()):.9e}".encode())
    return digest.hexdigest()


_METHODS = ("device", "dtype", "preprocess", "stem", "head", "encode_text", "parameters")
