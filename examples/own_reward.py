"""A reward of your own: how common each class is where the camera hangs. `python examples/own_reward.py`"""

import torch
from PIL import Image
from torch import Tensor

from grpo_tta import GRPOTTA, CandidateGroup, Reference
from grpo_tta.data import nano

LABELS = ["star", "heart", "arrow", "house"]
FREQUENCY = torch.tensor([0.4, 0.4, 0.1, 0.1])


def common_here(reference: Reference, group: CandidateGroup) -> Tensor:
    """Agreement with all views, plus half of the log frequency: one number in nats per candidate, `[B, M, K]`."""
    agreement = group.gather(reference.ensemble[:, None])
    return agreement + 0.5 * FREQUENCY.log()[group.classes]


def main() -> None:
    image = Image.fromarray(nano.item("fog", "tuning", 3).image)
    plain, own = GRPOTTA("nano-clip", LABELS), GRPOTTA("nano-clip", LABELS, reward=common_here)
    for name, classifier in (("the default's reward", plain), ("common_here", own)):
        explanation = classifier.explain(image)
        print(f"{name}: {explanation.prediction.label} {explanation.prediction.probability:.3f}")
        for candidate in explanation.views[0].candidates:
            print(f"  {candidate.label:6} reward {candidate.reward:+.2f} advantage {candidate.advantage:+.3f}")


if __name__ == "__main__":
    main()
