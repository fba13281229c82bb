"""Where the texts of a figure stand, by the boxes that matplotlib gives."""

from __future__ import annotations

import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

ROUNDING = 0.5
"""Pixels by which a box may pass the edge of its figure."""


def boxes(figure: Figure) -> dict[str, Bbox]:
    """Number and text -> the box of every text that is drawn, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # lays the figure out
    drawn: list[Text] = []
    draw = Text.draw

    def noted(self: Text, renderer: RendererBase) -> None:
        drawn.append(self)
        draw(self, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noted)
        canvas.draw()
    texts = [text for text in drawn if text.get_visible() and text.get_text().strip()]
    return {f"{n} {t.get_text()}": Text.get_window_extent(t, canvas.get_renderer()) for n, t in enumerate(texts)}


def overlaps(found: dict[str, Bbox]) -> list[tuple[str, str]]:
    """Pairs of texts that lie on each other."""
    names = list(found)
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if found[a].overlaps(found[b])]


def clipped(figure: Figure, found: dict[str, Bbox]) -> list[str]:
    """Texts that the edge of the figure cuts."""
    edge = figure.bbox.padded(ROUNDING)
    return [name for name, box in found.items() if not (edge.contains(box.x0, box.y0) and edge.contains(box.x1, box.y1))]


def check_texts(figure: Figure) -> None:
    """
    Raises:
        AssertionError: a text lies on another one or is cut.
    """
    found = boxes(figure)
    assert found
    assert overlaps(found) == []
    assert clipped(figure, found) == []
