"""A folder through a torch DataLoader, in batches: `python examples/dataloader.py FOLDER LABEL,LABEL,...`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch.utils.data import DataLoader, Dataset

from grpo_tta import GRPOTTA
from grpo_tta.images.folders import find_images
from grpo_tta.images.read import load_image


class Folder(Dataset[tuple[str, Image.Image]]):
    """Files and decoded images. Decoding may run in worker processes; views are made where the model is."""

    def __init__(self, folder: Path) -> None:
        self.files = find_images([folder])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[str, Image.Image]:
        return self.files[number].name, load_image(self.files[number])


def main(folder: Path, labels: Sequence[str]) -> None:
    classifier = GRPOTTA("nano-clip", labels, settings="fast", batch=16)
    # images differ in size, so a batch stays a list: `collate_fn` hands it over as it is
    for batch in DataLoader(Folder(folder), batch_size=16, num_workers=0, collate_fn=list):
        names, images = zip(*batch, strict=True)
        for name, answer in zip(names, classifier.predict(images), strict=True):
            print(f"{name}\t{answer.label}\t{answer.probability:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","))
