"""The page itself: what can be chosen, and what is drawn of an episode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any, final

import gradio as gr
from gradio.data_classes import ImageData
from PIL import Image

from grpo_tta.app.draw import (
    EMPTY,
    Compared,
    heading,
    render,
    render_comparison,
    render_error,
    render_several,
    render_stream,
    render_warnings,
    script,
)
from grpo_tta.app.episode import make_episode, split_labels
from grpo_tta.app.knowledge import (
    DRAWINGS,
    PHOTO_LABELS,
    PHOTOGRAPHS,
    is_photograph,
    knows,
    warnings_of,
    warnings_of_many,
)
from grpo_tta.app.reproduce import Asked, command_of_many
from grpo_tta.app.several import ORDERS, Order, answer_each, check_images, in_order
from grpo_tta.app.shifts import SHIFTS, Shift, shift
from grpo_tta.app.stream import Streamed, follow
from grpo_tta.app.uploads import decode_upload, load_upload
from grpo_tta.backbones.base import Backbone
from grpo_tta.backbones.prompts import DEFAULT_TEMPLATE
from grpo_tta.classifier import GRPOTTA
from grpo_tta.data import nano
from grpo_tta.errors import UserError
from grpo_tta.images.read import DecodedImage
from grpo_tta.method.settings import PRESETS

EXAMPLES = (("source", 12), ("source", 17), ("source", 20), ("combinations", 5), ("colours", 3), ("digits", 4))
"""Images of the nano suite's tuning split, by task and number."""
SEVERAL = (
    '<p class="tta-note">Each image by itself, as above. Or all of them as one stream: every answer then depends on the images '
    "before it. A stream has its own settings, whatever the preset, and begins anew each time.</p>"
)
ORDERED = "A mouse can drag the rows of the list. Without one, let the names begin with numbers and take them by name."
_NO_ANSWER, _NO_TABLE = (EMPTY, "", "", None), ("", None)
SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif")
"""Uploads of other formats are shown as PNG."""


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


def read(asked: Asked, path: Path, classifier: GRPOTTA) -> DecodedImage | Image.Image:
    """The image as the classifier gets it: an untouched one is decoded as `predict` does it.

    Raises:
        UserError: it cannot be decoded.
    """
    if asked.kind == "none":
        return decode_upload(path, classifier.least_side)
    return shift(load_upload(path), asked.kind, asked.severity, classifier.backbone.image_size)


def example(task: str, number: int) -> tuple[Image.Image, str, str]:
    """Image, labels and template of one example."""
    spec = nano.TASKS[task]
    return Image.fromarray(nano.item(task, "tuning", number).image), ", ".join(spec.classes), spec.template


def model_for(photograph: bool | None, model: str, models: Sequence[str]) -> str:
    """The model for an upload: of photographs the first that is offered and does not know drawings alone.

    Args:
        photograph: the upload looks like one; None where that cannot be said.
        model: that is chosen now.
        models: that are offered.
    """
    fit = [name for name in models if name != DRAWINGS]
    return fit[0] if photograph and model == DRAWINGS and fit else model


def _path_of(payload: ImageData | None) -> str | None:
    """An upload as it lies on disk. Gradio's own reading would refuse formats that we read, with a traceback in the log."""
    return None if payload is None else payload.path


def make_page(models: Sequence[str], load: Callable[[str], Backbone]) -> gr.Blocks:
    """The page for these models; the first is chosen to begin with.

    Args:
        models: names.
        load: name -> backbone.
    """
    classifiers = Classifiers(load)
    of_examples = {", ".join(nano.TASKS[task].classes) for task, _ in EXAMPLES}

    def adapt(
        path: str | None, labels: str, kind: Shift, severity: int, model: str, preset: str, template: str
    ) -> tuple[str, str, str, tuple[Any, ...]]:
        question = (path, labels, kind, severity, model, preset, template)
        try:
            asked = _asked(path, labels, kind, severity, model, preset, template)
            classifier = classifiers.get(model, asked.labels, template, preset)
            image = read(asked, Path(path or ""), classifier)
            episode = make_episode(classifier, image)
        except UserError as error:
            return render_error(str(error)), "", "", question
        photograph = is_photograph(image.image) if isinstance(image, DecodedImage) else None
        found = warnings_of(model, asked.labels, photograph)
        answer, trace = render(episode, asked, str(classifier.backbone.device), classifier.backbone.image_size)
        return answer, trace, render_warnings(found), question

    def compare(
        path: str | None, labels: str, kind: Shift, severity: int, model: str, preset: str, template: str
    ) -> tuple[str, tuple[Any, ...]]:
        question = (path, labels, kind, severity, model, preset, template)
        answers: list[Compared] = []
        zero_shot = ("", 0.0)
        try:
            asked = _asked(path, labels, kind, severity, model, preset, template)
            for name in PRESETS:
                classifier = classifiers.get(model, asked.labels, template, name)
                image = read(asked, Path(path or ""), classifier)
                began = time.perf_counter()
                said = classifier.predict(image)
                spent = 1000 * (time.perf_counter() - began)
                zero_shot = said.label_before, 100 * said.probabilities_before[said.label_before]
                answers.append(Compared(name, said.label, 100 * said.probability, said.forwards, said.backwards, spent))
        except UserError as error:
            return render_error(str(error)), question
        return render_comparison(zero_shot, answers), question

    def each(paths: Sequence[Path], classifier: GRPOTTA, asked: Asked) -> Iterator[str]:
        """The table of answers, again after each image."""
        again = command_of_many([path.name for path in paths], asked)
        for rows in answer_each(classifier, paths):
            found = warnings_of_many(asked.model, asked.labels, [row.photograph for row in rows if not row.error])
            yield render_several(rows, len(paths), again, found)

    def along(paths: Sequence[Path], classifier: GRPOTTA, asked: Asked) -> Iterator[str]:
        """The tables of a stream, again after each minibatch."""
        again = command_of_many([path.name for path in paths], asked, stream=True)
        minibatches: list[tuple[Streamed, ...]] = []
        for some in follow(classifier, paths):
            minibatches.append(some)
            seen = [row.photograph for rows in minibatches for row in rows if not row.error]
            yield render_stream(minibatches, len(paths), again, warnings_of_many(asked.model, asked.labels, seen))

    def several(
        answers: Callable[[Sequence[Path], GRPOTTA, Asked], Iterator[str]],
        files: list[str] | None, order: Order, labels: str, model: str, preset: str, template: str,
    ) -> Iterator[tuple[str, tuple[Any, ...]]]:  # fmt: skip
        """What `answers` draws, and what it answers to."""
        question = (files, order, labels, model, preset, template)
        paths = in_order([Path(file) for file in files or ()], order)
        try:
            check_images(paths)
            asked = Asked("", split_labels(labels), "none", 1, model, preset, template)
            for drawn in answers(paths, classifiers.get(model, asked.labels, template, preset), asked):
                yield drawn, question
        except UserError as error:
            yield render_error(str(error)), question

    def receive(path: str | None, labels: str, model: str, template: str) -> tuple[Any, ...]:
        """What an upload changes: the image as a browser shows it, shift, model, labels, template, warnings, answer."""
        file = Path(path or "")
        try:
            image = load_upload(file)
            photograph = is_photograph(image)
            chosen = model_for(photograph, model, models)
            if chosen == PHOTOGRAPHS and labels in of_examples:  # the labels of drawings would be nonsense
                labels, template = ", ".join(PHOTO_LABELS), DEFAULT_TEMPLATE
            found = warnings_of(chosen, split_labels(labels), photograph)
        except UserError as error:
            return None, "none", model, labels, template, render_error(str(error)), EMPTY, None
        if chosen != model:
            found.insert(0, f"This looks like a photograph, so {chosen} was chosen. {knows(chosen)}")
        # an update without a value would make the component anew, without our `preprocess`
        shown = path if file.suffix.lower() in SHOWN_BY_BROWSERS else image
        return shown, "none", chosen, labels, template, render_warnings(found), EMPTY, None

    def choose(number: int) -> tuple[Image.Image, str, str, str, str, None]:
        return *example(*EXAMPLES[number]), models[0], "", None

    first, first_labels, first_template = example(*EXAMPLES[0])
    with gr.Blocks(title="grpo-tta", analytics_enabled=False) as page:
        gr.HTML(heading(models), elem_id="tta-head")
        with gr.Row(elem_id="tta-columns"):
            with gr.Column(scale=4, min_width=300):
                image = gr.Image(
                    first, label="Image", type="filepath", image_mode=None, format="png", sources=["upload", "clipboard"],
                    height=200, buttons=[], elem_id="tta-image", alt_text="the image to adapt to",
                )  # fmt: skip
                image.preprocess = _path_of  # type: ignore[method-assign]
                notice = gr.HTML("", elem_id="tta-notice")
                thumbnail = gr.Image(visible=False, type="pil", format="png")
                examples = gr.Dataset(
                    components=[thumbnail], samples=[[example(*each)[0]] for each in EXAMPLES], type="index",
                    layout="gallery", label="Examples", elem_id="tta-examples",
                )  # fmt: skip
                labels = gr.Textbox(
                    first_labels, label="Labels, separated by commas", lines=2, max_lines=4, elem_id="tta-labels"
                )
                with gr.Row(elem_id="tta-buttons"):
                    button = gr.Button("Adapt", variant="primary", elem_id="tta-adapt", min_width=120)
                    side_by_side = gr.Button("Compare presets", elem_id="tta-compare-presets", min_width=120)
                kind = gr.Radio(list(SHIFTS), value="fog", label="Shift the image", elem_id="tta-shift")
                severity = gr.Slider(1, 5, value=4, step=1, label="Severity of the shift", buttons=[], elem_id="tta-severity")
                with gr.Accordion("Model, preset, prompt", open=False):
                    model = gr.Dropdown(list(models), value=models[0], label="Model", elem_id="tta-model")
                    preset = gr.Radio(list(PRESETS), value="default", label="Preset", elem_id="tta-preset")
                    template = gr.Textbox(first_template, label="Prompt with {} for the label", elem_id="tta-template")
            with gr.Column(scale=6, min_width=300):
                answer = gr.HTML(EMPTY, elem_id="tta-answer")
                compared = gr.HTML("", elem_id="tta-compared")
        trace = gr.HTML("", elem_id="tta-trace")
        with gr.Accordion("Several images, or a stream", open=False, elem_id="tta-several"):
            gr.HTML(SEVERAL, elem_id="tta-several-note")
            files = gr.File(label="Images", file_count="multiple", height=140, allow_reordering=True, elem_id="tta-files")
            order = gr.Radio(list(ORDERS), value="as listed", label="Order", info=ORDERED, elem_id="tta-order")
            with gr.Row():
                many = gr.Button("Adapt to each", elem_id="tta-adapt-each", min_width=120)
                streaming = gr.Button("Adapt along the stream", elem_id="tta-adapt-stream", min_width=120)
            answers = gr.HTML("", elem_id="tta-answers")
        page.load(None, None, None, js=script(), api_visibility="private")
        # what answer, comparison and the answers to several images belong to; None where there is none
        question, question_of_comparison, question_of_many = gr.State(None), gr.State(None), gr.State(None)
        inputs, of_one = [image, labels, kind, severity, model, preset, template], [answer, trace, notice, question]
        of_comparison, of_many = [compared, question_of_comparison], [answers, question_of_many]
        inputs_of_many = [files, order, labels, model, preset, template]
        hidden: dict[str, Any] = {"api_visibility": "private"}
        # not `always_last`: what comes second would be put off by beginning its whole event again, and two events without end
        quietly: dict[str, Any] = {"queue": False, "show_progress": "hidden", "trigger_mode": "multiple", **hidden}

        # Listeners of one event wait for each other. So what an event makes void is cancelled by its first listener, or by one
        # beside a mere `then`: a later one would hit what was asked in the meantime.
        sorting = many.click(None, **hidden).then(partial(several, each), inputs_of_many, of_many, **hidden)
        following = streaming.click(None, **hidden).then(partial(several, along), inputs_of_many, of_many, **hidden)
        gr.on(many.click, None, cancels=following, **hidden)
        gr.on(streaming.click, None, cancels=sorting, **hidden)
        comparing = side_by_side.click(compare, inputs, of_comparison, **hidden)
        changes = [labels.change, template.change, model.change, preset.change]
        shifts = [kind.change, severity.change]
        gr.on([*changes, *shifts], None, cancels=comparing, **hidden)
        gr.on([*changes, files.change, order.change], None, cancels=[sorting, following], **hidden)
        # a change by keyboard is no `input` of Gradio's radio buttons, and leaving the slider's field by Tab is a `release`
        again = gr.on([kind.change, severity.release], None, **hidden).then(
            lambda asked, *now: adapt(*now) if asked and tuple(asked) != now else tuple(gr.skip() for _ in of_one),
            [question, *inputs], of_one, trigger_mode="always_last", **hidden,
        )  # fmt: skip
        gr.on(button.click, None, cancels=again, **hidden)  # it may have read the labels before they were typed
        adapted = gr.on([button.click, page.load], adapt, inputs, of_one, api_name="adapt", trigger_mode="always_last")
        # what stands beside a new image, or other labels, must not be the answer to another question
        gr.on(changes, keep_if_asked, [question, *inputs], of_one, **quietly)
        gr.on([*changes, *shifts], keep_table, [question_of_comparison, *inputs], of_comparison, **quietly)
        gr.on([*changes, files.change, order.change], keep_table, [question_of_many, *inputs_of_many], of_many, **quietly)
        for done in (adapted, again):
            done.then(keep_if_asked, [question, *inputs], of_one, **quietly)
        gr.on([image.clear, image.upload, examples.click], None, cancels=[adapted, again, comparing], **hidden)
        gr.on([image.clear, image.upload], _nothing, None, [*of_one, *of_comparison], **quietly)
        received = [image, kind, model, labels, template, notice, answer, question]
        image.upload(receive, [image, labels, model, template], received, **hidden)
        chosen = examples.click(choose, examples, [image, labels, template, model, *of_comparison], **hidden)
        chosen.then(adapt, inputs, of_one, **hidden)
    return page


def _asked(path: str | None, labels: str, kind: Shift, severity: int, model: str, preset: str, template: str) -> Asked:
    """
    Raises:
        UserError: no image, or too many labels.
    """
    if path is None:
        raise UserError("There is no image yet; drop one or take an example.")
    return Asked(Path(path).name, split_labels(labels), kind, int(severity), model, preset, template)


def _nothing() -> tuple[Any, ...]:
    """In place of the answer, its trace, warnings and question, and of the comparison and its question."""
    return *_NO_ANSWER, *_NO_TABLE


def keep_if_asked(answered: tuple[Any, ...] | None, *now: Any) -> tuple[Any, ...]:
    """Leaves the answer where it belongs to what is chosen now, or where there is none."""
    return _kept(_NO_ANSWER, answered, now)


def keep_table(answered: tuple[Any, ...] | None, *now: Any) -> tuple[Any, ...]:
    """The same of presets side by side, or of the answers to several images, and their question."""
    return _kept(_NO_TABLE, answered, now)


def _kept(nothing: tuple[Any, ...], answered: tuple[Any, ...] | None, now: tuple[Any, ...]) -> tuple[Any, ...]:
    if answered is None or tuple(answered) == now:
        return tuple(gr.skip() for _ in nothing)
    return nothing
