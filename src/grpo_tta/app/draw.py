"""Everything that the page draws, as HTML. Labels and names of files are escaped. No Gradio."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import final

from grpo_tta.app.episode import SHOWN_VIEWS, Episode
from grpo_tta.app.knowledge import KNOWS
from grpo_tta.app.reproduce import Asked, command, python_lines
from grpo_tta.app.several import Answered
from grpo_tta.app.stream import Streamed, stand_after
from grpo_tta.report.grids import number
from grpo_tta.report.pages import environment

EMPTY = '<p class="tta-empty">Choose an image and press <b>Adapt</b>.</p>'


def _percent(value: float, digits: int = 1) -> str:
    return f"{number(value, digits)}\N{NO-BREAK SPACE}%"


_TEMPLATES = environment("grpo_tta.app", {"percent": _percent, "number": number})


@final
@dataclass(frozen=True)
class Compared:
    """The answer of one preset, in percent, and what it cost."""

    preset: str
    label: str
    percent: float
    forwards: float
    backwards: float
    milliseconds: float


def render(episode: Episode, asked: Asked, device: str, size: int) -> tuple[str, str]:
    """Answer and trace as HTML. Labels are escaped.

    Args:
        episode: of one image.
        asked: what was asked.
        device: that the model is on.
        size: side of the model's input in pixels.
    """
    caption = "untouched" if asked.kind == "none" else f"{asked.kind}, severity {asked.severity}"
    answer = _TEMPLATES.get_template("app_answer.html").render(
        e=episode, caption=caption, device=device, python=python_lines(asked, size), command=command(asked)
    )
    return answer, _TEMPLATES.get_template("app_trace.html").render(e=episode, shown=SHOWN_VIEWS)


def render_warnings(sentences: Sequence[str]) -> str:
    """Sentences as HTML; nothing where there are none."""
    return "".join(f'<p class="tta-warning" role="status">{escape(sentence)}</p>' for sentence in sentences)


def render_error(sentence: str) -> str:
    """What stands in place of an answer."""
    return f'<p class="tta-error" role="alert">{escape(sentence)}</p>'


def render_comparison(zero_shot: tuple[str, float], answers: Sequence[Compared]) -> str:
    """The presets side by side, as HTML."""
    return _TEMPLATES.get_template("app_presets.html").render(zero_shot=zero_shot, answers=answers)


def render_several(rows: Sequence[Answered], total: int, command: str, warnings: Sequence[str] = ()) -> str:
    """Answers to several images as HTML: how often each label was given, and a row per image.

    Args:
        rows: the answers so far.
        total: how many images there are.
        command: that gives the answers again.
        warnings: sentences.
    """
    answers = Counter(row.after for row in rows if not row.error)
    changed = sum(row.before != row.after for row in rows)
    drawn = _TEMPLATES.get_template("app_several.html").render(
        rows=rows, total=total, mix=answers.most_common(8), changed=changed, command=command
    )
    return render_warnings(warnings) + drawn


def render_stream(minibatches: Sequence[Sequence[Streamed]], total: int, command: str, warnings: Sequence[str] = ()) -> str:
    """A stream as HTML: where it stood after each minibatch, and a row per image.

    Args:
        minibatches: the answers so far.
        total: how many images the stream has.
        command: that gives the answers again.
        warnings: sentences.
    """
    stands = [stand_after(minibatches[:n]) for n in range(1, len(minibatches) + 1)]
    rows = [row for some in minibatches for row in some]
    drawn = _TEMPLATES.get_template("app_stream.html").render(stands=stands, rows=rows, total=total, command=command)
    return render_warnings(warnings) + drawn


def heading(models: Sequence[str]) -> str:
    """The head of the page as HTML, with what each model knows."""
    text = "A zero-shot model adapts itself to one unlabelled image, answers, and forgets. Shift the image and watch."
    return f"<h1>grpo-tta</h1><p>{text}</p><p>{' '.join(KNOWS[model] for model in models if model in KNOWS)}</p>"


def style() -> str:
    """The page's own CSS."""
    return _file("app.css")


def script() -> str:
    """A JavaScript function that the page runs once when it is loaded."""
    return _file("app.js")


def _file(name: str) -> str:
    return (files("grpo_tta.app") / "templates" / name).read_text()
