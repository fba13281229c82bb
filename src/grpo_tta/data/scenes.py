"""Drawn scenes: the small world that nano-clip was trained on and the nano suite is drawn from.

A `Scene` says *what* is seen (shape or printed glyph, colour, texture, count, background); `draw` says *how* (style and
spread of sizes, rotations and clutter). Every number comes from one `numpy` generator handed in by the caller, so a
scene is a pure function of its seed. Pictures are 64 x 64 RGB, uint8.

This module is frozen together with the weights of nano-clip: changing a line of it voids every published table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 64
_SUPERSAMPLE = 3

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (208, 32, 38),
    "orange": (242, 133, 20),
    "yellow": (244, 214, 44),
    "green": (42, 152, 62),
    "cyan": (60, 200, 210),
    "blue": (34, 70, 200),
    "purple": (118, 44, 158),
    "pink": (246, 140, 190),
    "brown": (122, 76, 40),
    "white": (242, 242, 240),
    "gray": (132, 134, 138),
    "black": (24, 24, 28),
}
TEXTURES = ("solid", "striped", "dotted", "checkered", "wavy", "grid", "speckled")
COUNT_WORDS = ("one", "two", "three", "four", "five", "six")
BACKGROUNDS = ("plain", "gradient", "clouds", "paper")
DIGITS = "0123456789"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Polygon = np.ndarray  # [N, 2] corner points in the unit square [-1, 1], y down


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Polygon:
    angle = np.radians(np.linspace(start, stop, 41))
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _regular(n: int, phase: float = -90.0) -> Polygon:
    angle = np.radians(phase + 360.0 * np.arange(n) / n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _polar(radius: Callable[[np.ndarray], np.ndarray], n: int = 120) -> Polygon:
    angle = np.linspace(0.0, 2 * np.pi, n, endpoint=False)
    r = radius(angle)
    return np.stack([r * np.sin(angle), -r * np.cos(angle)], axis=1)


def _star() -> Polygon:
    outer, inner = _regular(5), 0.42 * _regular(5, -54.0)
    return np.stack([outer, inner], axis=1).reshape(-1, 2)


def _heart() -> Polygon:
    t = np.linspace(0.0, 2 * np.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 17, (y - 2.5) / 17], axis=1)


def _drop() -> Polygon:
    body = _ellipse(0, 0.35, 0.62, 0.62, -25, 205)
    return np.concatenate([body, [[0.0, -1.0]]])


# Each shape is a list of (polygon, filled): a filled polygon adds to the mask, an empty one cuts a hole.
Shape = list[tuple[Polygon, bool]]


@cache
def shapes() -> dict[str, Shape]:
    """The 24 shapes by name, in the order of the source task's classes."""
    cross = np.array(
        [
            [-0.32, -1],
            [0.32, -1],
            [0.32, -0.32],
            [1, -0.32],
            [1, 0.32],
            [0.32, 0.32],
            [0.32, 1],
            [-0.32, 1],
            [-0.32, 0.32],
            [-1, 0.32],
            [-1, -0.32],
            [-0.32, -0.32],
        ]
    )
    arrow = np.array([[-1, -0.26], [0.15, -0.26], [0.15, -0.75], [1, 0], [0.15, 0.75], [0.15, 0.26], [-1, 0.26]])
    bolt = np.array([[0.15, -1], [-0.62, 0.12], [-0.08, 0.12], [-0.3, 1], [0.62, -0.25], [0.06, -0.25], [0.5, -1]])
    crown = np.array([[-0.95, 0.7], [-0.95, -0.6], [-0.45, 0.0], [0, -0.85], [0.45, 0.0], [0.95, -0.6], [0.95, 0.7]])
    return {
        "circle": [(_ellipse(0, 0, 0.92, 0.92), True)],
        "square": [(_box(-0.8, -0.8, 0.8, 0.8), True)],
        "triangle": [(_regular(3) * 1.0 + [0, 0.2], True)],
        "star": [(_star(), True)],
        "heart": [(_heart(), True)],
        "cross": [(cross, True)],
        "ring": [(_ellipse(0, 0, 0.95, 0.95), True), (_ellipse(0, 0, 0.56, 0.56), False)],
        "crescent": [(_ellipse(0, 0, 0.95, 0.95), True), (_ellipse(0.42, -0.1, 0.78, 0.78), False)],
        "diamond": [(np.array([[0, -1], [0.66, 0], [0, 1], [-0.66, 0]]), True)],
        "hexagon": [(_regular(6, 0.0) * 0.95, True)],
        "arrow": [(arrow, True)],
        "drop": [(_drop(), True)],
        "flower": [(_polar(lambda a: 0.68 + 0.3 * np.cos(5 * a)), True), (_ellipse(0, 0, 0.2, 0.2), False)],
        "house": [
            (_box(-0.72, -0.15, 0.72, 0.9), True),
            (np.array([[-1, -0.12], [0, -0.95], [1, -0.12]]), True),
            (_box(-0.18, 0.3, 0.18, 0.9), False),
        ],
        "tree": [
            (np.array([[0, -1], [0.55, -0.3], [-0.55, -0.3]]), True),
            (np.array([[0, -0.6], [0.72, 0.15], [-0.72, 0.15]]), True),
            (np.array([[0, -0.15], [0.88, 0.62], [-0.88, 0.62]]), True),
            (_box(-0.15, 0.6, 0.15, 1.0), True),
        ],
        "fish": [
            (_ellipse(-0.2, 0, 0.75, 0.46), True),
            (np.array([[0.35, 0], [1, -0.52], [1, 0.52]]), True),
            (_ellipse(-0.55, -0.1, 0.09, 0.09), False),
        ],
        "cup": [
            (_ellipse(0.55, 0.0, 0.42, 0.42), True),
            (_ellipse(0.55, 0.0, 0.22, 0.22), False),
            (np.array([[-0.85, -0.7], [0.55, -0.7], [0.42, 0.75], [-0.72, 0.75]]), True),
        ],
        "key": [
            (_ellipse(-0.55, 0, 0.44, 0.44), True),
            (_ellipse(-0.55, 0, 0.2, 0.2), False),
            (_box(-0.15, -0.12, 1.0, 0.12), True),
            (_box(0.5, 0.1, 0.66, 0.42), True),
            (_box(0.82, 0.1, 0.98, 0.42), True),
        ],
        "umbrella": [
            (_ellipse(0, 0.05, 0.98, 0.95, 180, 360), True),
            (_ellipse(-0.65, 0.05, 0.33, 0.16), False),
            (_ellipse(0, 0.05, 0.33, 0.16), False),
            (_ellipse(0.65, 0.05, 0.33, 0.16), False),
            (_box(-0.07, -0.2, 0.07, 0.85), True),
            (_box(-0.07, 0.75, 0.4, 0.9), True),
        ],
        "mushroom": [
            (_ellipse(0, 0.05, 0.95, 0.9, 180, 360), True),
            (np.array([[-0.26, 0.0], [0.26, 0.0], [0.36, 0.92], [-0.36, 0.92]]), True),
        ],
        "boat": [
            (np.array([[-0.98, 0.4], [0.98, 0.4], [0.6, 0.9], [-0.6, 0.9]]), True),
            (_box(-0.08, -0.95, 0.06, 0.42), True),
            (np.array([[0.12, -0.9], [0.85, 0.25], [0.12, 0.25]]), True),
        ],
        "gear": [
            (_polar(lambda a: 0.74 + 0.2 * np.sign(np.cos(9 * a + 0.01)), 216), True),
            (_ellipse(0, 0, 0.3, 0.3), False),
        ],
        "bolt": [(bolt, True)],
        "crown": [(crown, True)],
    }


@cache
def _glyphs() -> dict[str, np.ndarray]:
    """Printed characters as masks: font name -> uint8 [36, 40, 40] in the order of DIGITS + LETTERS."""
    with (files("grpo_tta.data") / "glyphs.npz").open("rb") as stream, np.load(stream) as archive:
        return {name: archive[name] for name in archive.files}


def fonts(held_out: bool) -> tuple[str, ...]:
    """Names of the shipped fonts; those held out never occur in training."""
    return tuple(name for name in sorted(_glyphs()) if name.startswith("heldout") == held_out)


@dataclass(frozen=True)
class Scene:
    """What a picture shows. `what` is a shape's name or a single character of DIGITS + LETTERS."""

    what: str
    colour: str
    texture: str = "solid"
    count: int = 1
    background: str = "plain"
    background_colour: str = "white"

    @property
    def is_glyph(self) -> bool:
        return len(self.what) == 1


@dataclass(frozen=True)
class Spread:
    """How widely a generator varies what is not named by the scene (lengths as a share of the picture)."""

    size: tuple[float, float] = (0.62, 0.95)
    rotation: float = 20.0  # degrees either way
    clutter: tuple[int, int] = (0, 4)
    occluders: tuple[int, int] = (0, 0)
    contrast: tuple[float, float] = (0.9, 1.0)
    held_out_fonts: bool = False


SOURCE = Spread()
RESAMPLED = Spread(size=(0.42, 0.75), rotation=45.0, clutter=(3, 8), contrast=(0.7, 1.0))
HARD = Spread(size=(0.38, 0.7), rotation=60.0, clutter=(4, 9), occluders=(1, 3), contrast=(0.45, 0.9))


def held_out(colour: str, what: str) -> bool:
    """True for the sixth of all (colour, shape) pairs that training and the source task never show."""
    if len(what) == 1:
        return False
    return (5 * list(COLOURS).index(colour) + 7 * list(shapes()).index(what)) % 6 == 0


def random_scene(
    rng: np.random.Generator,
    *,
    what: str | None = None,
    colour: str | None = None,
    texture: str | None = None,
    count: int = 1,
) -> Scene:
    """A scene with everything that is not given chosen at random.

    Object and background colours differ, and pairs that are `held_out` occur only where both are given.
    """
    names = list(COLOURS)
    if what is None:
        free = [w for w in shapes() if colour is None or not held_out(colour, w)]
        what = free[rng.integers(len(free))]
    if colour is None:
        free = [c for c in names if not held_out(c, what)]
        colour = free[rng.integers(len(free))]
    others = [c for c in names if c != colour and (c, colour) not in _TOO_ALIKE and (colour, c) not in _TOO_ALIKE]
    background_colour = others[rng.integers(len(others))]
    texture = texture or (TEXTURES[rng.integers(1, len(TEXTURES))] if rng.random() < 0.4 else "solid")
    background = BACKGROUNDS[rng.integers(len(BACKGROUNDS))]
    return Scene(what, colour, texture, count, background, background_colour)


_TOO_ALIKE = {("orange", "yellow"), ("purple", "blue"), ("brown", "black"), ("red", "orange"), ("cyan", "white")}


def _tint(rng: np.random.Generator, name: str, amount: float = 14.0) -> np.ndarray:
    return np.clip(np.array(COLOURS[name], float) + rng.uniform(-amount, amount, 3), 0, 255)


def _smooth_noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """[SIZE, SIZE] in 0..1, varying over about SIZE / cells pixels."""
    small = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float) / 255.0


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    return (x + 0.5) / SIZE - 0.5, (y + 0.5) / SIZE - 0.5


def _background(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    base = _tint(rng, scene.background_colour)
    if scene.background == "gradient":
        x, y = _grid()
        angle = rng.uniform(0, 2 * np.pi)
        shade = 1.0 + rng.uniform(0.25, 0.5) * (np.cos(angle) * x + np.sin(angle) * y)
    elif scene.background == "clouds":
        shade = 0.8 + 0.4 * _smooth_noise(rng, int(rng.integers(3, 7)))
    elif scene.background == "paper":
        shade = 0.9 + 0.2 * _smooth_noise(rng, int(rng.integers(16, 33)))
    else:
        shade = np.ones((SIZE, SIZE))
    return base * shade[..., None]


def _place(rng: np.random.Generator, count: int, spread: Spread) -> list[tuple[float, float, float]]:
    """Centres and diameters (x, y, d) as shares of the picture; objects do not overlap."""
    if count == 1:
        d = rng.uniform(*spread.size)
        slack = max(0.0, (1.0 - d) / 2)
        return [(0.5 + rng.uniform(-slack, slack), 0.5 + rng.uniform(-slack, slack), d)]
    columns = 2 if count <= 4 else 3
    rows = 1 if count <= 2 and rng.random() < 0.5 else (2 if count <= 6 else 3)
    columns = max(columns, -(-count // rows))
    if rng.random() < 0.5 and rows != columns:
        rows, columns = columns, rows
    cell_w, cell_h = 1.0 / columns, 1.0 / rows
    chosen = rng.permutation(rows * columns)[:count]
    places = []
    for cell in chosen:
        r, c = divmod(int(cell), columns)
        d = min(cell_w, cell_h) * rng.uniform(0.68, 0.92)
        dx, dy = (cell_w - d) / 2, (cell_h - d) / 2
        places.append(((c + 0.5) * cell_w + rng.uniform(-dx, dx), (r + 0.5) * cell_h + rng.uniform(-dy, dy), d))
    return places


def _object_mask(rng: np.random.Generator, scene: Scene, spread: Spread, wobble: float = 0.0) -> Image.Image:
    """Supersampled mask ('L') of all objects."""
    big = SIZE * _SUPERSAMPLE
    canvas = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(canvas)
    for x, y, d in _place(rng, scene.count, spread):
        turn = rng.uniform(-spread.rotation, spread.rotation)
        stretch = rng.uniform(0.88, 1.12)
        if scene.is_glyph:
            names = fonts(spread.held_out_fonts)
            glyph = Image.fromarray(_glyphs()[names[rng.integers(len(names))]][(DIGITS + LETTERS).index(scene.what)])
            turn = turn * 0.6
            side = max(8, int(big * d))
            width = max(8, int(side * min(1.0, stretch)))
            tile = glyph.resize((width, side), Image.Resampling.BICUBIC).rotate(turn, Image.Resampling.BICUBIC)
            canvas.paste(tile, (int(big * x - width / 2), int(big * y - side / 2)), tile)
            continue
        angle = np.radians(turn)
        rotate = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        mirror = -1.0 if rng.random() < 0.5 else 1.0
        for polygon, filled in shapes()[scene.what]:
            points = polygon * [mirror * stretch, 1.0 / stretch]
            if wobble:
                points = points + rng.normal(0.0, wobble, points.shape)
            points = (points @ rotate) * (0.5 * d * big) + [x * big, y * big]
            pen.polygon([tuple(p) for p in points], fill=255 if filled else 0)
    return canvas


def _shrink(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask.reduce(_SUPERSAMPLE), float) / 255.0


def _pattern(rng: np.random.Generator, texture: str) -> np.ndarray:
    """[SIZE, SIZE] in 0..1: 0 shows the object's colour, 1 the second colour."""
    x, y = _grid()
    angle = rng.uniform(0, np.pi)
    u = (np.cos(angle) * x + np.sin(angle) * y) * SIZE
    v = (-np.sin(angle) * x + np.cos(angle) * y) * SIZE
    period = rng.uniform(6.0, 10.0)
    phase = rng.uniform(0, period, 2)
    fu, fv = (u + phase[0]) / period, (v + phase[1]) / period
    if texture == "striped":
        value = np.sin(2 * np.pi * fu) * 3
    elif texture == "dotted":
        value = 3 * (1.6 - ((fu % 1 - 0.5) ** 2 + (fv % 1 - 0.5) ** 2) * 22)
    elif texture == "checkered":
        value = 8 * np.sin(np.pi * fu) * np.sin(np.pi * fv)
    elif texture == "wavy":
        value = np.sin(2 * np.pi * (fu + 0.35 * np.sin(2 * np.pi * fv * 0.8))) * 3
    elif texture == "grid":
        value = 3 * (np.maximum(np.cos(2 * np.pi * fu), np.cos(2 * np.pi * fv)) - 0.72) * 4
    elif texture == "speckled":
        value = (rng.random((SIZE, SIZE)) > 0.78) * 8.0 - 4.0
    else:
        return np.zeros((SIZE, SIZE))
    return 1.0 / (1.0 + np.exp(-value))


def _second_colour(rng: np.random.Generator, colour: str) -> np.ndarray:
    bright = np.dot(COLOURS[colour], [0.3, 0.59, 0.11]) > 120
    return _tint(rng, "black" if bright else "white", 20.0)


def _clutter(rng: np.random.Generator, picture: np.ndarray, how_many: int, opacity: float) -> np.ndarray:
    """Small faint blobs, bars and rings behind the object."""
    names = list(COLOURS)
    for _ in range(how_many):
        layer = Image.new("L", (SIZE * 2, SIZE * 2), 0)
        pen = ImageDraw.Draw(layer)
        x, y = rng.uniform(0, SIZE * 2, 2)
        w, h = rng.uniform(6, 30, 2)
        kind = rng.integers(3)
        if kind == 0:
            pen.ellipse([x - w / 2, y - h / 2, x + w / 2, y + h / 2], fill=255)
        elif kind == 1:
            angle = rng.uniform(0, np.pi)
            dx, dy = 1.5 * w * np.cos(angle), 1.5 * w * np.sin(angle)
            pen.line([x - dx, y - dy, x + dx, y + dy], fill=255, width=int(rng.integers(2, 6)))
        else:
            pen.rectangle([x - w / 2, y - h / 2, x + w / 2, y + h / 2], fill=255)
        mask = np.asarray(layer.reduce(2), float)[..., None] / 255.0 * opacity
        picture = picture * (1 - mask) + _tint(rng, names[rng.integers(len(names))]) * mask
    return picture


def _fill(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """[SIZE, SIZE, 3] surface of the objects: colour, texture and a soft light."""
    pattern = _pattern(rng, scene.texture)[..., None]
    surface = _tint(rng, scene.colour) * (1 - pattern) + _second_colour(rng, scene.colour) * pattern
    x, y = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    light = 1.0 + rng.uniform(0.0, 0.3) * (np.cos(angle) * x + np.sin(angle) * y)
    return surface * light[..., None]


def draw(rng: np.random.Generator, scene: Scene, spread: Spread = SOURCE) -> np.ndarray:
    """Draws the scene as a 'photo': uint8 [64, 64, 3]."""
    picture = _clutter(rng, _background(rng, scene), int(rng.integers(spread.clutter[0], spread.clutter[1] + 1)), 0.5)
    big_mask = _object_mask(rng, scene, spread)
    mask = _shrink(big_mask)
    surface = _fill(rng, scene)
    if rng.random() < 0.5:  # a soft shadow
        shift = rng.integers(1, 4, 2)
        shadow = np.roll(_shrink(big_mask.filter(ImageFilter.GaussianBlur(4))), shift, axis=(0, 1))
        picture = picture * (1 - 0.35 * shadow[..., None])
    picture = picture * (1 - mask[..., None]) + surface * mask[..., None]
    if spread.occluders[1]:
        picture = _clutter(rng, picture, int(rng.integers(spread.occluders[0], spread.occluders[1] + 1)), 1.0)
    contrast = rng.uniform(*spread.contrast)
    picture = 128 + (picture - 128) * contrast + rng.uniform(-18, 18)
    picture = picture + rng.normal(0, rng.uniform(0, 4), picture.shape)
    return _to_uint8(picture)


def _to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _outline(mask: Image.Image, width: int) -> np.ndarray:
    """[SIZE, SIZE] in 0..1: the contour of a supersampled mask, `width` supersampled pixels (odd) wide."""
    edge = np.asarray(mask.filter(ImageFilter.MaxFilter(width)), float) - np.asarray(
        mask.filter(ImageFilter.MinFilter(width)), float
    )
    return _shrink(Image.fromarray(np.clip(edge, 0, 255).astype(np.uint8)))


def draw_sketch(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """A shaky pencil outline on paper, sometimes hatched; colour and texture are lost: uint8 [64, 64, 3]."""
    mask = _object_mask(rng, scene, SOURCE, wobble=0.02)
    ink = _outline(mask, int(rng.choice([3, 5, 7]))) * rng.uniform(0.65, 1.0)
    if rng.random() < 0.4:
        hatch = _pattern(rng, "striped") * _shrink(mask) * rng.uniform(0.15, 0.45)
        ink = np.maximum(ink, hatch)
    paper = 225 + 30 * _smooth_noise(rng, 24)
    picture = (paper * (1 - ink) + 45 * ink)[..., None] + rng.normal(0, 5, (SIZE, SIZE, 1))
    return _to_uint8(picture * [1.0, 0.99, 0.96])


def draw_rendition(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """One of five artistic styles none of which occurs in training: uint8 [64, 64, 3]."""
    style = ("cartoon", "neon", "halftone", "mosaic", "negative")[rng.integers(5)]
    mask = _object_mask(rng, scene, SOURCE, wobble=0.01)
    inside = _shrink(mask)[..., None]
    surface, back = _fill(rng, scene), _background(rng, scene)
    line = _outline(mask, 9)[..., None]
    picture = back * (1 - inside) + surface * inside
    if style == "cartoon":
        picture = np.round(picture / 85) * 85 * (1 - line) + 10 * line
    elif style == "neon":
        glow = _shrink(mask.filter(ImageFilter.FIND_EDGES).filter(ImageFilter.GaussianBlur(5)))[..., None] * 6
        hue = _tint(rng, ("pink", "cyan", "green", "yellow")[rng.integers(4)])
        picture = 18 + hue * np.clip(line + glow, 0, 1.1)
    elif style == "halftone":
        x, y = _grid()
        dots = 0.5 + 0.25 * (np.cos(2 * np.pi * x * 13) + np.cos(2 * np.pi * y * 13))
        gray = picture @ np.array([0.3, 0.59, 0.11]) / 255.0
        gray = (gray - gray.min()) / max(np.ptp(gray), 1e-6)
        picture = np.where((gray > dots)[..., None], 240.0, 30.0) * np.ones(3)
    elif style == "mosaic":
        tiles = Image.fromarray(_to_uint8(picture)).resize((16, 16), Image.Resampling.BOX)
        picture = np.asarray(tiles.resize((SIZE, SIZE), Image.Resampling.NEAREST), float)
        picture[::4] *= 0.6
        picture[:, ::4] *= 0.6
    else:
        picture = 255 - picture[..., rng.permutation(3)]
    return _to_uint8(picture + rng.normal(0, 3, picture.shape))


def draw_digit(pixels: np.ndarray) -> np.ndarray:
    """Enlarges an 8 x 8 handwritten digit (0..16, scikit-learn) to uint8 [64, 64, 3], white on black."""
    small = Image.fromarray(_to_uint8(pixels * (255.0 / 16.0)))
    big = np.asarray(small.resize((48, 48), Image.Resampling.BICUBIC), np.uint8)
    return np.repeat(np.pad(big, 8)[..., None], 3, axis=2)
