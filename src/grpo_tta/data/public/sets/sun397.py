"""SUN397."""

from __future__ import annotations

from pathlib import PurePosixPath

from grpo_tta.data.public.spec import UNKNOWN_LICENCE, Benchmark, from_coop
from grpo_tta.data.public.splits import read_split


def class_of(path: str) -> str:
    """ "a/apse/indoor/sun_x.jpg" -> "indoor apse": CoOp drops the initial and turns the words round."""
    return " ".join(reversed(PurePosixPath(path).parts[1:-1]))


SUN397 = Benchmark(
    name="sun397",
    title="SUN397",
    kind="cross-domain",
    classes=397,
    images=19_850,
    tuning_images=3_970,
    read=read_split,
    split_file="split_zhou_SUN397.json",
    class_of=class_of,
    small_models=("photo-clip",),
    folders=("sun397/SUN397", "SUN397", "SUN397/SUN397"),
    source=("SUN397.tar.gz from vision.princeton.edu/projects/2010/SUN", from_coop("split_zhou_SUN397.json")),
    layout=("sun397/SUN397/a/abbey/sun_aaalbzqrimafwbiv.jpg", "sun397/split_zhou_SUN397.json"),
    licence=UNKNOWN_LICENCE,
    zero_shot=62.59,
    downloads=(("SUN397", ()),),
)
