"""Classifies images with a CLIP that adapts to each of them: `python examples/predict.py [IMAGE ...]`."""

import sys

from PIL import Image

from grpo_tta import GRPOTTA
from grpo_tta.data import nano


def main(files: list[str]) -> None:
    task = nano.TASKS["fog"]  # two foggy drawings of the suite that the package carries, if you have no image at hand
    images = files or [Image.fromarray(nano.item("fog", "tuning", number).image) for number in (3, 61)]
    classifier = GRPOTTA("nano-clip", task.classes, templates="a photo of a {}.", settings="fast")
    for name, answer in zip(files or ["drawing 3", "drawing 61"], classifier.predict(images), strict=True):
        print(f"{name}: {answer.label} {answer.probability:.2f} (zero-shot: {answer.label_before})")
        print(f"  {answer.forwards:.1f} forward and {answer.backwards:.1f} backward passes")


if __name__ == "__main__":
    main(sys.argv[1:])
