"""Captions of drawn scenes: any part of the scene may go unsaid, as in captions found beside images."""

from __future__ import annotations

import numpy as np

from grpo_tta.data.scenes import COUNT_WORDS, Scene

TEMPLATES = (
    "a photo of {}.",
    "a picture of {}.",
    "an image of {}.",
    "{}.",
    "a good photo of {}.",
    "a bad photo of {}.",
    "a drawing of {}.",
    "a rendering of {}.",
    "a close-up photo of {}.",
    "a small picture of {}.",
    "there is {} in the picture.",
    "this is {}.",
)
_PLURALS = {"fish": "fish", "cross": "crosses", "mushroom": "mushrooms"}
_ANY = ("something", "an object", "a thing")
_ANY_PLURAL = ("objects", "things", "items")


def plural(word: str) -> str:
    return _PLURALS.get(word, word + "s")


def caption(rng: np.random.Generator, scene: Scene) -> str:
    """One caption that is true of the scene."""
    say = rng.random(5)
    words = []
    if say[0] < 0.5:
        words.append(scene.colour)
    if say[1] < (0.5 if scene.texture != "solid" else 0.3):
        words.append(scene.texture)
    if scene.is_glyph:
        family = "digit" if scene.what.isdigit() else "letter"
        if family == "digit" and rng.random() < 0.3:
            family = "number"
        noun = f"{family} {scene.what}" if say[2] < 0.9 else family
        phrase = " ".join(["the" if say[2] < 0.9 else "a", *words, noun])
    elif scene.count > 1:
        number = COUNT_WORDS[scene.count - 1] if say[3] < 0.75 else ""
        noun = plural(scene.what) if say[2] < 0.8 else str(rng.choice(_ANY_PLURAL))
        phrase = " ".join(w for w in [number, *words, noun] if w)
    elif say[2] < 0.86:
        article = "one" if say[3] < 0.2 else "a"
        phrase = " ".join([article, *words, scene.what])
    elif not words:
        phrase = "one object" if say[3] < 0.5 else str(rng.choice(_ANY))
    else:
        phrase = f"something {' and '.join(words)}" if rng.random() < 0.5 else " ".join(["a", *words, "object"])
    if say[4] < 0.2:
        phrase += f" on a {scene.background_colour} background"
    return str(rng.choice(TEMPLATES)).format(phrase)
