"""A folder through a torch DataLoader into a loop of your own: `python examples/dataloader.py FOLDER LABEL,LABEL,...`."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from grpo_tta import GRPOTTA
from grpo_tta.images.folders import find_images
from grpo_tta.images.read import load_image


class Folder(Dataset[tuple[str, Tensor]]):
    """Names and images `[3, 256, 256]` uint8, of one size so that they fit into one tensor. Decoding may run in workers."""

    def __init__(self, folder: Path) -> None:
        self.files = find_images([folder])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[str, Tensor]:
        return self.files[number].name, pil_to_tensor(load_image(self.files[number]).resize((256, 256)))


def main(folder: Path, labels: Sequence[str]) -> None:
    classifier = GRPOTTA("nano-clip", labels, settings="fast")
    for names, pixels in DataLoader(Folder(folder), batch_size=16, num_workers=0):
        probabilities = classifier.adapt_batch(pixels).after.exp()  # [B, C]
        for name, best, label in zip(names, *torch.max(probabilities, dim=-1), strict=True):
            print(f"{name}\t{labels[int(label)]}\t{float(best):.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","))
