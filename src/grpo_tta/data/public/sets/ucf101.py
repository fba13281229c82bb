"""UCF101 (middle frames)."""

from __future__ import annotations

from grpo_tta.data.public.spec import UNKNOWN_LICENCE, Benchmark, from_coop
from grpo_tta.data.public.splits import class_by_folder, read_split

UCF101 = Benchmark(
    name="ucf101",
    title="UCF101 (middle frames)",
    kind="cross-domain",
    classes=101,
    images=3_783,
    tuning_images=1_898,
    read=read_split,
    split_file="split_zhou_UCF101.json",
    class_of=class_by_folder,
    own_template="a photo of a person doing {}.",
    folders=("ucf101/UCF-101-midframes", "UCF101", "UCF101/UCF-101-midframes"),
    source=(from_coop("UCF-101-midframes.zip and split_zhou_UCF101.json"),),
    layout=(
        "ucf101/UCF-101-midframes/Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c01.jpg",
        "ucf101/split_zhou_UCF101.json",
    ),
    licence=UNKNOWN_LICENCE,
    zero_shot=65.13,
)
