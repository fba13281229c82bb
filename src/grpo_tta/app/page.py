"""The page itself: what can be chosen, and what is drawn of an episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from threading import Lock
from typing import final

import gradio as gr
from PIL import Image

from grpo_tta.app.episode import Episode, make_episode, split_labels
from grpo_tta.app.shifts import SHIFTS, Shift, shift
from grpo_tta.backbones.base import Backbone
from grpo_tta.classifier import GRPOTTA
from grpo_tta.data import nano
from grpo_tta.errors import UserError
from grpo_tta.images.read import to_rgb
from grpo_tta.method.settings import PRESETS
from grpo_tta.report.pages import environment

EXAMPLES = (("source", 12), ("source", 17), ("source", 20), ("combinations", 5), ("colours", 3), ("digits", 4))
"""Images of the nano suite's tuning split, by task and number."""
EMPTY = '<p class="tta-empty">Choose an image and press <b>Adapt</b>.</p>'


@final
class Classifiers:
    """A classifier for each model and preset that was chosen, with the labels that were asked for last.

    A model is loaded once, on first use, whatever the presets.
    """

    def __init__(self, load: Callable[[str], Backbone]) -> None:
        self._backbone, self._lock = lru_cache(maxsize=None)(load), Lock()
        self._known: dict[tuple[str, str], GRPOTTA] = {}

    def get(self, model: str, labels: Sequence[str], template: str, preset: str) -> GRPOTTA:
        """
        Raises:
            UserError: whatever of it is unusable.
        """
        with self._lock:  # two visitors must not load one model twice
            known = self._known.get((model, preset))
            if known is None:
                found = GRPOTTA(self._backbone(model), labels, templates=template, settings=preset)
            else:
                found = known.with_labels(labels, templates=template)
            self._known[model, preset] = found
            return found


def _percent(value: float) -> str:
    return f"{value:.1f}\N{NO-BREAK SPACE}%"


def _number(value: float, digits: int, *, sign: bool = False) -> str:
    """Rounded, with a true minus sign, and none before a zero."""
    text = f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
    return text.lstrip("+-") if not float(text) else text.replace("-", "\N{MINUS SIGN}")


_TEMPLATES = environment("grpo_tta.app", {"percent": _percent, "number": _number})


def render(episode: Episode, caption: str, device: str) -> tuple[str, str]:
    """Answer and trace as HTML. Labels are escaped.

    Args:
        episode: of one image.
        caption: how the image was shifted.
        device: that the model is on.
    """
    answer = _TEMPLATES.get_template("app_answer.html").render(e=episode, caption=caption, device=device)
    return answer, _TEMPLATES.get_template("app_trace.html").render(e=episode)


def example(task: str, number: int) -> tuple[Image.Image, str, str]:
    """Image, labels and template of one example."""
    spec = nano.TASKS[task]
    return Image.fromarray(nano.item(task, "tuning", number).image), ", ".join(spec.classes), spec.template


def heading(model: str) -> str:
    """The head of the page as HTML; it says what the shipped default model is no good for."""
    text = "A zero-shot model adapts itself to one unlabelled image, answers, and forgets. Shift the image and watch."
    if model == "nano-clip":
        text += " nano-clip knows drawings alone: for photographs start the page with <code>--model photo-clip</code>."
    return f"<h1>grpo-tta</h1><p>{text}</p>"


def make_page(models: Sequence[str], load: Callable[[str], Backbone]) -> gr.Blocks:
    """The page for these models; the first is chosen to begin with.

    Args:
        models: names.
        load: name -> backbone.
    """
    classifiers = Classifiers(load)

    def adapt(
        image: Image.Image | None, labels: str, kind: Shift, severity: int, model: str, preset: str, template: str
    ) -> tuple[str, str]:
        if image is None:
            raise gr.Error("There is no image yet; drop one or take an example.", print_exception=False)
        try:
            classifier = classifiers.get(model, split_labels(labels), template, preset)
            shifted = shift(to_rgb(image), kind, int(severity), classifier.backbone.image_size)
            episode = make_episode(classifier, shifted)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        caption = "untouched" if kind == "none" else f"{kind}, severity {int(severity)}"
        return render(episode, caption, str(classifier.backbone.device))

    def choose(number: int) -> tuple[Image.Image, str, str]:
        return example(*EXAMPLES[number])

    first, first_labels, first_template = choose(0)
    with gr.Blocks(title="grpo-tta", analytics_enabled=False) as page:
        gr.HTML(heading(models[0]), elem_id="tta-head")
        with gr.Row():
            with gr.Column(scale=4, min_width=300):
                image = gr.Image(
                    first, label="Image", type="pil", image_mode=None, format="png", sources=["upload", "clipboard"],
                    height=240, buttons=[], elem_id="tta-image", alt_text="the image to adapt to",
                )  # fmt: skip
                thumbnail = gr.Image(visible=False, type="pil", format="png")
                examples = gr.Dataset(
                    components=[thumbnail], samples=[[example(*each)[0]] for each in EXAMPLES], type="index",
                    layout="gallery", label="Examples", elem_id="tta-examples",
                )  # fmt: skip
                labels = gr.Textbox(first_labels, label="Labels, separated by commas", lines=3, elem_id="tta-labels")
                kind = gr.Radio(list(SHIFTS), value="fog", label="Shift the image", elem_id="tta-shift")
                severity = gr.Slider(1, 5, value=4, step=1, label="Severity of the shift", buttons=[], elem_id="tta-severity")
                with gr.Accordion("Model, preset, prompt", open=False):
                    model = gr.Dropdown(list(models), value=models[0], label="Model", elem_id="tta-model")
                    preset = gr.Radio(list(PRESETS), value="default", label="Preset", elem_id="tta-preset")
                    template = gr.Textbox(first_template, label="Prompt with {} for the label", elem_id="tta-template")
                button = gr.Button("Adapt", variant="primary", elem_id="tta-adapt")
            with gr.Column(scale=6, min_width=300):
                answer = gr.HTML(EMPTY, elem_id="tta-answer")
        trace = gr.HTML("", elem_id="tta-trace")
        inputs, outputs = [image, labels, kind, severity, model, preset, template], [answer, trace]
        gr.on([button.click, kind.change, severity.release, page.load], adapt, inputs, outputs, api_name="adapt")
        # what stands beside a new image must not be another one's answer
        image.upload(lambda: (EMPTY, ""), None, outputs, queue=False, api_visibility="private")
        chosen = examples.click(choose, examples, [image, labels, template], api_visibility="private")
        chosen.then(adapt, inputs, outputs, api_visibility="private")
    return page


def style() -> str:
    """The page's own CSS."""
    return (files("grpo_tta.app") / "templates" / "app.css").read_text()
