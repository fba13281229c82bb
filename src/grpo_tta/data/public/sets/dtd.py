"""Describable Textures (DTD)."""

from __future__ import annotations

from grpo_tta.data.public.spec import Benchmark, Official, from_coop
from grpo_tta.data.public.splits import class_by_folder, read_split

DTD = Benchmark(
    name="dtd",
    title="Describable Textures (DTD)",
    kind="cross-domain",
    classes=47,
    images=1_692,
    tuning_images=1_128,
    read=read_split,
    split_file="split_zhou_DescribableTextures.json",
    class_of=class_by_folder,
    own_template="{} texture.",
    folders=("dtd/images", "DTD/images", "dtd/dtd/images"),
    source=(
        "dtd-r1.0.1.tar.gz from www.robots.ox.ac.uk/~vgg/data/dtd",
        from_coop("split_zhou_DescribableTextures.json"),
    ),
    layout=("dtd/images/banded/banded_0002.jpg", "dtd/split_zhou_DescribableTextures.json"),
    licence="research use, by its page",
    zero_shot=44.27,
    downloads=(("DTD", (("split", "test"),)),),
    official=Official("DTD", (("split", "test"), ("partition", 1)), 1_880),
)
