"""Image classifiers as policies: networks whose classes are the rows of a linear layer (timm, torchvision, your own).

log pi(c | v) = log softmax_c(<w_c, f(v)> + b_c), the network's own. So that it is one product, features are `[f, 1]` and a
class's row is `[w_c, b_c]`; neither is normalised, and the logit scale is one. There is no text encoder.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2

from grpo_tta.backbones.base import fingerprint
from grpo_tta.backbones.classifier_split import read_by, split_classifier
from grpo_tta.backbones.imagenet_classes import class_names, wordnet_ids
from grpo_tta.errors import UserError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@final
@dataclass(frozen=True)
class Classes:
    """The classes of a network, in the order of its logits.

    Attributes:
        names: of each; two may share one, as two pairs of ImageNet's do.
        ids: of each in its data set, such as WordNet ids; the names where there are none.
    """

    names: tuple[str, ...]
    ids: tuple[str, ...]

    def rows_of(self, model: str, labels: Sequence[str]) -> list[int]:
        """The number of each label's class, which is named by its id or by its name, whatever its case.

        A name that several classes share stands for them in their order, and must occur as often.

        Raises:
            UserError: a label is none of the classes, or does not say which.
        """
        by_id = {key: row for row, key in enumerate(self.ids)}
        by_name: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            by_name.setdefault(_folded(name), []).append(row)
        wanted: dict[str, int] = {}
        for label in labels:
            wanted[_folded(label)] = wanted.get(_folded(label), 0) + 1
        used: dict[str, int] = {}
        rows = []
        for label in labels:
            key = _folded(label)
            found = [by_id[label]] if label in by_id else by_name.get(key, [])
            if not found:
                raise UserError(f"{model} knows no class {label!r}; {self._nearest(key, by_name)}.")
            if len(found) != 1 and len(found) != wanted[key]:
                ids = " or ".join(self.ids[row] for row in found)
                raise UserError(f"{model} has {len(found)} classes named {label!r}; write {ids} for the one that you mean.")
            rows.append(found[used.get(key, 0) if len(found) > 1 else 0])
            used[key] = used.get(key, 0) + 1
        return rows

    def _nearest(self, key: str, by_name: Mapping[str, Sequence[int]]) -> str:
        near = difflib.get_close_matches(key, by_name, 3)
        if near:
            return f"did you mean {' or '.join(repr(self.names[by_name[name][0]]) for name in near)}"
        return f"its {len(self.names)} classes are others, such as {self.names[0]!r}; name labels after them"


def _folded(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def classes_of(model: str, count: int, names: Mapping[str, str] | Sequence[str] | None) -> Classes:
    """The classes of a network of `count` logits.

    Args:
        names: in the order of the logits, or label -> name. WordNet ids of ImageNet's classes get OpenAI's names. None for
            ImageNet-1k's own, in their usual order, where the network has a thousand classes.

    Raises:
        UserError: as many names are needed, or nothing says what the classes are.
    """
    if names is None:
        if count != 1000:
            raise UserError(
                f"{model} has {count} classes, and nothing says which; name them, in the order of its logits, in a file for "
                "--class-names (class_names=[…] in Python)."
            )
        names = wordnet_ids()
    pairs = dict(names) if isinstance(names, Mapping) else {name: name for name in names}
    if len(pairs) != count:
        raise UserError(f"{model} has {count} classes, but {len(pairs)} different names were given; name each.")
    known = class_names()
    shown = tuple(known.get(label, name) if label == name else name for label, name in pairs.items())
    return Classes(shown, tuple(pairs))


@final
class ClassifierBackbone:
    """A frozen image classifier, split into stem, blocks and head.

    The model is put in eval mode, its parameters are marked as needing no gradient, and activations no longer write into their
    input. No value is ever changed.
    """

    logit_scale = 1.0
    logit_bias: float | None = None

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        class_names: Mapping[str, str] | Sequence[str] | None = None,
        image_size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        preprocess: Callable[[Image.Image], Tensor] | None = None,
    ) -> None:
        """
        Args:
            name: as it stands in tables.
            model: pixels `[N, 3, S, S]` -> logits `[N, C]`, the last step of which is a linear layer.
            class_names: in the order of the logits, or label -> name; ImageNet-1k's where it has a thousand.
            image_size: S.
            mean, std: `[3]` of the input normalisation; ImageNet's usual ones by default.
            preprocess: RGB image -> `[3, S, S]`; by default the shorter side is resized to S (bicubic), the middle cut out.

        Raises:
            UserError: the logits are not those of a linear layer, the model reads no images of this size, or the names do not
                fit.
        """
        self.name, self.image_size = name, image_size
        self._model = model.eval().requires_grad_(False)
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.mean = torch.tensor(mean, dtype=torch.float32, device=self.device)
        self.std = torch.tensor(std, dtype=torch.float32, device=self.device)
        self._preprocess = preprocess or preprocessing(image_size, mean, std)
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(2, 3, image_size, image_size, generator=generator).to(self.device, self.dtype)
        cut = split_classifier(name, model, probe)
        self._cut = cut
        self.blocks: Sequence[nn.Module] = cut.blocks
        self.head_modules: dict[str, nn.Module] = self._of_the_head(probe)
        bias = cut.linear.bias if cut.linear.bias is not None else torch.zeros(cut.linear.out_features, device=self.device)
        self._rows = torch.cat([cut.linear.weight, bias[:, None]], dim=1).detach().float()  # [C, D + 1]
        self.classes = classes_of(name, len(self._rows), class_names)
        named = "\n".join(self.classes.ids + self.classes.names)
        self.fingerprint = hashlib.blake2b((fingerprint(model) + named).encode(), digest_size=16).hexdigest()

    @torch.no_grad()
    def _of_the_head(self, pixels: Tensor) -> dict[str, nn.Module]:
        tokens = self._cut.stem(pixels)
        for block in self.blocks:
            tokens = block(tokens)
        return read_by(lambda: self._cut.tail(tokens), self._cut.tail_modules)

    def preprocess(self, image: Image.Image) -> Tensor:
        return self._preprocess(image)

    def stem(self, pixels: Tensor) -> Tensor:
        return self._cut.stem(pixels.to(self.dtype))

    def head(self, tokens: Tensor) -> Tensor:
        features = self._cut.tail(tokens).float()
        return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)

    def class_rows(self, labels: Sequence[str]) -> Tensor:
        """Rows `[w_c, b_c]` of the labels, `[C, D + 1]` float32.

        Raises:
            UserError: a label is none of the classes, or does not say which.
        """
        return self._rows[self.classes.rows_of(self.name, labels)]

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """
        Raises:
            UserError: always; a classifier reads no text.
        """
        raise UserError(f"{self.name} is an image classifier and reads no text; use a model of images and text for prompts.")

    def parameters(self) -> Iterator[nn.Parameter]:
        return self._model.parameters()

    def reference_forward(self, pixels: Tensor) -> Tensor:
        """The library's own forward, `[N, 3, S, S]` -> logits `[N, C]`: what head and rows must give."""
        return self._model(pixels.to(self.dtype))


def preprocessing(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    shown: float = 1.0,
    interpolation: v2.InterpolationMode = v2.InterpolationMode.BICUBIC,
) -> Callable[[Image.Image], Tensor]:
    """RGB image -> `[3, S, S]`: the shorter side is resized to S / shown, and the middle cut out."""
    return v2.Compose(
        [
            v2.Resize(int(size / shown), interpolation),
            v2.CenterCrop(size),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )
