"""An online method over a stream: its state goes in and comes out with every batch. `python examples/stream.py [BATCHES]`."""

import sys

from PIL import Image

from grpo_tta import GRPOTTA, ViewSettings
from grpo_tta.baselines.registry import known_methods
from grpo_tta.data import nano
from grpo_tta.engine.encode import encode_for
from grpo_tta.engine.interface import State
from grpo_tta.images.read import image_key

TASK, SIZE = nano.TASKS["gaussian-noise"], 8


def main(batches: int) -> None:
    method = known_methods()["grpo-tta-online"]
    policy = GRPOTTA("nano-clip", TASK.classes).policy
    state: State = {}
    right, right_before = 0, 0
    for batch in range(batches):
        items = [nano.item(TASK.name, "tuning", batch * SIZE + number) for number in range(SIZE)]
        images = [Image.fromarray(item.image) for item in items]
        encoded = encode_for([method], policy, images, [image_key(image) for image in images], ViewSettings(), 0)
        adaptation, state = method(policy, encoded, state)
        for item, before, after in zip(items, adaptation.before.argmax(-1), adaptation.after.argmax(-1), strict=True):
            right_before, right = right_before + (int(before) == item.label), right + (int(after) == item.label)
        seen = (batch + 1) * SIZE
        print(f"{seen} images: zero-shot {right_before / seen:.2f}, online {right / seen:.2f}, {len(state)} tensors carried")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
