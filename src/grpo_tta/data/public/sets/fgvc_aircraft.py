"""FGVC-Aircraft, variant level: CoOp and TPT read its own files, variants.txt and images_variant_{train,val,test}.txt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from grpo_tta.data.public.spec import Benchmark, Fault, Listing, Official, Part, find_folder, name_all, wrong_number
from grpo_tta.errors import UserError

_PARTS: Mapping[Part, str] = {"reporting": "test", "tuning": "val"}


def read_aircraft(benchmark: Benchmark, root: Path, part: Part) -> Listing:
    """
    Raises:
        UserError: the folder or one of its lists is not there.
    """
    if root.name == "images" and (root.parent / "variants.txt").is_file():  # the folder of the images itself
        root = root.parent
    folder = find_folder(benchmark, root, lambda place: (place / "variants.txt").is_file())
    listed = folder / f"images_variant_{_PARTS[part]}.txt"
    if not listed.is_file():
        raise UserError(f"{listed}: no such file; extract {benchmark.title} again.")
    classes = [line.strip() for line in (folder / "variants.txt").read_text().splitlines() if line.strip()]
    label_of = {name: label for label, name in enumerate(classes)}
    pairs = [line.strip().partition(" ") for line in listed.read_text().splitlines() if line.strip()]
    rows = [(image, name) for image, _, name in pairs]
    strange = sorted({name for _, name in rows if name not in label_of})
    unused = sorted(set(classes) - {name for _, name in rows})
    problems = name_all(f"the class {{}} of {listed.name} is not in variants.txt", map(repr, strange))
    problems += name_all(f"the class {{}} of variants.txt has no image in {listed.name}", map(repr, unused))
    if len(label_of) < len(classes):
        problems.append(Fault("variants.txt names a class more than once"))
    problems += wrong_number("classes in variants.txt", len(classes), benchmark.classes)
    images = folder / "images"
    expected = benchmark.images if part == "reporting" else benchmark.tuning_images
    problems += wrong_number(f"images in {listed.name}", len(rows), expected or len(rows))
    known = [(image, label_of[name]) for image, name in rows if name in label_of]
    absent = frozenset(number for number, (image, _) in enumerate(known) if not (images / f"{image}.jpg").is_file())
    problems += name_all("the image {}.jpg is missing", (known[number][0] for number in sorted(absent)), missing=True)
    return Listing(
        tuple(classes),
        [f"{image}.jpg" for image, _ in known],
        [label for _, label in known],
        lambda number: images / f"{known[number][0]}.jpg",
        images,
        f"{_PARTS[part]} part, {listed}",
        tuple(problems),
        absent,
    )


FGVC_AIRCRAFT = Benchmark(
    name="fgvc-aircraft",
    title="FGVC-Aircraft",
    kind="cross-domain",
    classes=100,
    images=3_333,
    tuning_images=3_333,
    read=read_aircraft,
    own_template="a photo of a {}, a type of aircraft.",
    folders=("fgvc_aircraft", "fgvc-aircraft-2013b/data"),
    source=("fgvc-aircraft-2013b.tar.gz from www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft; its folder data is renamed",),
    layout=("fgvc_aircraft/images/0034309.jpg", "fgvc_aircraft/variants.txt", "fgvc_aircraft/images_variant_test.txt"),
    licence="non-commercial research",
    zero_shot=23.67,
    downloads=(("FGVCAircraft", (("split", "test"),)),),
    official=Official("FGVCAircraft", (("split", "test"), ("annotation_level", "variant")), 3_333),
)
