"""Rasterises the printed digits and letters of the nano world from the open fonts that ship with matplotlib.

The suite is frozen, and so are its glyphs: nothing is written without `--write`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from grpo_tta.data.scenes import DIGITS, LETTERS

TRAIN = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono-Bold", "DejaVuSans-Oblique", "DejaVuSerif-Bold")
HELD_OUT = ("STIXGeneralBolIta", "cmtt10", "cmss10", "STIXGeneral")
SIDE = 40
TARGET = Path(__file__).resolve().parents[2] / "src" / "grpo_tta" / "data" / "glyphs.npz"


def glyph(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    canvas = Image.new("L", (160, 160), 0)
    ImageDraw.Draw(canvas).text((80, 80), character, fill=255, font=font, anchor="mm")
    box = canvas.getbbox()
    assert box is not None
    cut = canvas.crop(box)
    scale = (SIDE - 4) / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.LANCZOS)
    out = Image.new("L", (SIDE, SIDE), 0)
    out.paste(cut, ((SIDE - cut.width) // 2, (SIDE - cut.height) // 2))
    return np.asarray(out)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--write", action="store_true", help=f"rewrite the frozen {TARGET.name} of this checkout")
    if not parser.parse_args(arguments).write:
        parser.error(f"{TARGET} is frozen; give --write to rewrite it all the same")
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    arrays = {}
    for prefix, names in (("train", TRAIN), ("heldout", HELD_OUT)):
        for name in names:
            font = ImageFont.truetype(str(folder / f"{name}.ttf"), 96)
            arrays[f"{prefix}-{name}"] = np.stack([glyph(font, c) for c in DIGITS + LETTERS])
    np.savez_compressed(TARGET, **arrays)
    print(f"{TARGET.name}: {len(arrays)} fonts, {TARGET.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
