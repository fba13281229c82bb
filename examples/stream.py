"""A stream that adapts as it goes, stops, and goes on from a saved state: `python examples/stream.py [IMAGES]`."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file, save_file

from grpo_tta import GRPOTTA
from grpo_tta.data import nano

TASK = nano.TASKS["gaussian-noise"]


def drawings(first: int, last: int) -> Iterator[Image.Image]:
    for number in range(first, last):
        yield Image.fromarray(nano.item(TASK.name, "tuning", number).image)


def main(count: int, state: Path) -> None:
    labels = [TASK.classes[nano.item(TASK.name, "tuning", number).label] for number in range(count)]
    classifier = GRPOTTA("nano-clip", TASK.classes)
    right, right_before = 0, 0
    for first, last in ((0, count // 2), (count // 2, count)):  # two processes would do the same
        stream = classifier.stream(drawings(first, last))
        if first:
            stream.load_state_dict(load_file(state))
        for label, answer in zip(labels[first:last], stream, strict=True):
            right, right_before = right + (answer.label == label), right_before + (answer.label_before == label)
        save_file(stream.state_dict(), state)
        print(f"{stream.answered} images: zero-shot {right_before / last:.2f}, along the stream {right / last:.2f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 64, Path(folder) / "stream.safetensors")
