"""What adaptation costs beside the forward pass that it starts from, and beside a plain implementation of its kind.

    python perf/overhead.py --model ViT-B-16 --views 64 --json overhead.json   # about 10 minutes on 2 quiet cores
    python perf/overhead.py --model nano-clip --views 64 --json overhead.json --throughput --memory

The model is an architecture of open_clip in its true size with random weights (nano-clip: its own). The classes are random
unit vectors, and the images low-pass noise. So nothing has to be downloaded, and no count of operations changes. Images are
adapted one at a time. Every round measures everything once, in one process, after a warm-up round. Odd rounds go through the
measurements backwards, and what is short is repeated within its turn. A ratio is the median over the rounds of the ratio
within a round, of wall clock:

- episode_over_views: an episode on V views over the frozen forward pass of these views. It takes the best 6 views and one step
  on the norms of the last four blocks, predicts on view 0, and has no content-free views.
- accurate_over_views: an episode with the default settings over the forward pass of its views and content-free views.
- naive_over_accurate, naive_over_fast: `naive`, below, over an episode of `default` and of `fast`. All start from a decoded
  image and make their views. `fast` encodes as many views as the image needs, six to eight on average for trained models. One
  of random weights would need them all, so it gets seven.
- trunk_over_matmul: operations per second in the forward pass of the V views over those in a product of large matrices, by
  MKL or by oneDNN, whichever is faster (see `grpo_tta.engine.onednn`).

Beside them, over the forward pass of the same V views:

- rlcf_over_views: the settings of `naive` on the library's own code (`rlcf-full` of the tables).
- least_over_views: the passes that the episode of `episode_over_views` cannot do without, by the model's own modules: the V
  views, 6 views through the last four blocks forward and backward, and view 0 through them. No group, no reward, no per-image
  parameters, no step. What it lacks to `episode_over_views` is what this library adds.

`--operations` counts the operations of the first two episodes over those of their views. No implementation of the same passes
can be below.

With `--dtype bfloat16` the frozen model is in bfloat16, and so is the matrix product. The tuned parameters and `naive` stay
float32. `flips` then counts how often the best class is another one than in float32. With random weights most views and
classes are nearly tied, so this is an upper bound more than an estimate for a trained model.

`accurate` in these names is the default: they keep the name, so that old and new results can be compared.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from grpo_tta.backbones.allocator import keep_freed_memory
from grpo_tta.backbones.names import SHIPPED, shipped_folder
from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.backbones.prompts import ClassPrompts
from grpo_tta.baselines.rlcf import RLCFSettings, rlcf_method
from grpo_tta.bench.records import write_json
from grpo_tta.bench.timing import peak_memory_mb, reset_peak
from grpo_tta.config.serialise import to_plain
from grpo_tta.engine.distributions import take_views
from grpo_tta.engine.encode import encode_for, encode_views, prepare_images
from grpo_tta.engine.interface import Adaptation, ImageBatch, Method
from grpo_tta.engine.onednn import frozen_products, linear_for
from grpo_tta.engine.parameters import NormAffine
from grpo_tta.engine.policy import Policy
from grpo_tta.images.seeds import ImageNoise
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.candidates import TopK
from grpo_tta.method.grpo import grpo_method, policy_steps, predict, reference_pass, score_candidates
from grpo_tta.method.prediction import View0
from grpo_tta.method.rewards import Alignment
from grpo_tta.method.settings import DEFAULT, FAST, GRPOSettings
from grpo_tta.method.trust import TrustRegion
from grpo_tta.method.weighting import MostConfident

CLASSES = 200
SEVEN = replace(FAST, views=replace(FAST.views, views=7), early_exit=None)
"""`fast` with the views that a trained model needs on average."""
IMAGE_SIZE = (500, 375)
SEED = 0
SELECTED = 6
BLOCKS = 4
CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MATRIX, PRODUCTS = 2048, 5
REPEAT_FOR = 0.5  # seconds; a call that is over sooner is timed again until they are spent
NAIVE = {"selected": SELECTED, "candidates": 3, "steps": 3, "learning_rate": 1e-5, "weight_decay": 5e-4, "reward_scale": 2.5}

Numbers = dict[str, float]
Batch = tuple[Tensor, Tensor]


def load_network(model: str) -> tuple[Any, Callable[[Image.Image], Tensor]]:
    """A shipped model, or an architecture of open_clip with random weights, in float32; and its preprocessing."""
    if model in SHIPPED:
        network, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{shipped_folder(model)}", weights_only=True)
        return network, preprocess
    torch.manual_seed(SEED)
    network, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=None)
    return network, preprocess


def no_tokens(prompts: list[str]) -> Tensor:
    raise NotImplementedError("the classes are random vectors; no text is read")


def make_policy(model: str, dtype: torch.dtype, classes: int = CLASSES) -> Policy:
    """The frozen model in `dtype` over random classes; the same ones and the same weights at every call."""
    network, preprocess = load_network(model)
    network.visual.to(dtype)
    backbone = OpenClipBackbone(model, network, preprocess, no_tokens)
    with torch.no_grad():
        width = backbone.reference_forward(torch.zeros(1, 3, backbone.image_size, backbone.image_size)).shape[-1]
    features = F.normalize(torch.randn(classes, width, generator=torch.Generator().manual_seed(SEED)), dim=-1)
    labels = tuple(f"class {number}" for number in range(classes))
    return Policy(backbone, ClassPrompts(labels, ("{}",), ("{}",), features))


def draw_image(number: int) -> Image.Image:
    """Low-pass noise of a photograph's size: coarse noise, blown up, with a little fine noise on top."""
    rng = np.random.default_rng([SEED, number])
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(IMAGE_SIZE, Image.Resampling.BICUBIC)
    fine = rng.normal(0, 8, (IMAGE_SIZE[1], IMAGE_SIZE[0], 3))
    return Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8))


def plain_views(V: int, size: int, mean: Sequence[float], std: Sequence[float]) -> Callable[[Image.Image], Tensor]:
    """The usual recipe of the field in torchvision, a crop at a time: image -> `[V, 3, S, S]`, view 0 the whole image."""
    end = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    whole = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size), *end])
    crop = transforms.Compose([transforms.RandomResizedCrop(size, (0.5, 1.0)), transforms.RandomHorizontalFlip(), *end])
    return lambda image: torch.stack([whole(image), *(crop(image) for _ in range(V - 1))])


def naive(visual: nn.Module, scale: float, text: Tensor, make: Callable[[Image.Image], Tensor], image: Image.Image) -> Tensor:
    """Written plainly, as the field's own scripts are: one image, float32, the whole visual encoder.

    All views forward, the 6 of lowest entropy, three steps of AdamW up the CLIP reward of their top classes (RLCF, arXiv
    2305.18010, with the frozen model as its own reward model), view 0 forward, weights back. Returns its log-probabilities.
    """
    before = {name: value.clone() for name, value in visual.state_dict().items()}
    views = make(image)
    with torch.no_grad():
        frozen = F.normalize(visual(views), dim=-1) @ text.T
    log_probs = (scale * frozen).log_softmax(-1)
    chosen = (-(log_probs.exp() * log_probs).sum(-1)).topk(min(SELECTED, len(views)), largest=False).indices
    views, cosine, first = views[chosen], frozen[chosen], views[:1]
    optimizer = torch.optim.AdamW(visual.parameters(), lr=NAIVE["learning_rate"], weight_decay=NAIVE["weight_decay"])
    for _ in range(int(NAIVE["steps"])):
        log_probs = (scale * F.normalize(visual(views), dim=-1) @ text.T).log_softmax(-1)
        classes = log_probs.topk(int(NAIVE["candidates"]), dim=-1).indices
        score = (NAIVE["reward_scale"] * cosine.gather(-1, classes)).relu()
        reward = score - score.mean(-1, keepdim=True)
        loss = -(reward * log_probs.gather(-1, classes)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = (scale * F.normalize(visual(first), dim=-1) @ text.T).log_softmax(-1)
    visual.load_state_dict(before)
    return after[0]


def episode_settings(V: int, blocks: int) -> GRPOSettings:
    """Of `episode_over_views`, as the top of this file explains it."""
    return GRPOSettings(
        views=ViewSettings(views=V, content_free=0),
        weighting=MostConfident(min(SELECTED, V)),
        reward=Alignment(),
        tune=NormAffine(last_blocks=min(BLOCKS, blocks)),
        predict=View0(),
    )


def make_views(policy: Policy, images: Sequence[Image.Image], settings: ViewSettings) -> Batch:
    """Views `[B, V, 3, S, S]` and content-free views `[B, P, 3, S, S]` of B images, named by their numbers."""
    names = [str(number) for number in range(len(images))]
    made = prepare_images(policy.backbone, images, names, settings, SEED)
    return made.views(range(settings.views)), made.content_free()


def run_method(policy: Policy, made: Batch, method: Method) -> Adaptation:
    """From pixels to the prediction, for any method of the tables."""
    encoded = encode_views(policy, *made, method.cached_blocks(policy.backbone))
    names = tuple(str(number) for number in range(len(made[0])))
    return method(policy, ImageBatch(names, *made, encoded, SEED), {})[0]


def run_episode(policy: Policy, made: Batch, settings: GRPOSettings) -> Adaptation:
    """The same for GRPO-TTA with these settings: the frozen pass with the tokens kept, then everything else."""
    return run_method(policy, made, grpo_method(settings))


def frozen_pass(policy: Policy, made: Batch) -> Tensor:
    """The library's own forward without gradients and without kept tokens."""
    return encode_views(policy, *made).log_probs


def measure(call: Callable[[], object]) -> float:
    """Seconds of wall clock of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure_short(call: Callable[[], object]) -> float:
    """Seconds of wall clock: of one call that is long, else the median of as many as fit in `REPEAT_FOR` and one more."""
    found = [measure(call)]
    while sum(found) < REPEAT_FOR:
        found.append(measure(call))
    return statistics.median(found)


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations per second in the best of several products of two large matrices, by torch's own and by the encoder's way."""
    a, b = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
    ways = (lambda: a @ b, lambda: linear_for(CPU, dtype)(a, b, None))
    return 2 * MATRIX**3 / min(measure(way) for way in ways for _ in range(PRODUCTS))


def least_episode(policy: Policy, made: Batch, first: int) -> None:
    """The passes of an episode that tunes from block `first` on, by the model's own modules alone."""
    backbone = policy.backbone

    def read(tokens: Tensor) -> Tensor:
        for block in backbone.blocks[first:]:
            tokens = block(tokens)
        return policy.log_probs(backbone.head(tokens))

    tokens = encode_views(policy, *made, [first]).tokens[first][0]
    with frozen_products(backbone):
        chosen = tokens[:SELECTED].detach().requires_grad_()
        torch.autograd.grad(read(chosen)[:, 0].sum(), chosen)
        with torch.no_grad():
            read(tokens[:1])


def linear_operations(x: Sequence[int], weight: Sequence[int], *others: object, **more: object) -> int:
    """Of a linear layer, from the shapes `[..., I]` and `[O, I]`."""
    return 2 * math.prod(x) * weight[0]


OF_ONEDNN = {torch.ops.mkldnn._linear_pointwise: linear_operations}
"""torch's counter does not know the products of `grpo_tta.engine.onednn`."""


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of a call (products only; a fused kernel would be counted as nothing)."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=OF_ONEDNN) as counter:
            call()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


def operations_of_a_view(policy: Policy) -> int:
    """Of its forward pass."""
    S = policy.backbone.image_size
    made = torch.zeros(1, 1, 3, S, S), torch.zeros(1, 0, 3, S, S)
    return operations(lambda: frozen_pass(policy, made))


def least_operations(policy: Policy, settings: Mapping[str, GRPOSettings]) -> Numbers:
    """Operations of an episode with each of these settings over those of the forward pass of its views and content-free views:
    what the ratio of their times would be if every operation took the same time."""
    found = {}
    for name, of_one in settings.items():
        made = make_views(policy, [draw_image(0)], of_one.views)
        of_views = operations(partial(frozen_pass, policy, made))
        found[f"{name}_over_views"] = operations(partial(run_episode, policy, made, of_one)) / of_views
    return found


def phases(policy: Policy, image: Image.Image, settings: GRPOSettings) -> Numbers:
    """Milliseconds in the parts of one episode, called as `adapt` calls them: making the views, the frozen pass ("trunk"),
    the reference pass over them with group, rewards and advantages ("proposal"), the steps, and the prediction."""
    tunable = settings.tune(policy.backbone)
    times = [time.perf_counter()]
    made = make_views(policy, [image], settings.views)
    times.append(time.perf_counter())
    encoded = encode_views(policy, *made, [tunable.first_block])
    times.append(time.perf_counter())
    reference = reference_pass(policy, encoded, settings)
    scored = score_candidates(reference, settings, ImageNoise(SEED, ("0",)))
    times.append(time.perf_counter())
    tokens = encoded.tokens[tunable.first_block]
    trust = TrustRegion(policy, take_views(tokens, reference.views), tunable, reference.log_probs, settings.steps.max_kl)
    params, _ = policy_steps(policy, trust.tokens, scored, settings.steps, tunable, trust)
    times.append(time.perf_counter())
    predict(policy, tokens, reference, settings, tunable, params)
    times.append(time.perf_counter())
    names = ("views_ms", "trunk_ms", "proposal_ms", "step_ms", "predict_ms")
    return {name: 1000 * (end - start) for name, start, end in zip(names, times, times[1:], strict=False)}


@final
@dataclass(frozen=True)
class Bench:
    """What all rounds share: the frozen model, the plain copy of its visual encoder that `naive` moves, and the settings."""

    policy: Policy
    visual: nn.Module
    V: int
    episode: GRPOSettings

    def made(self, image: Image.Image, settings: GRPOSettings) -> Batch:
        return make_views(self.policy, [image], settings.views)

    def calls(self, image: Image.Image) -> dict[str, Callable[[], object]]:
        """What is timed on one image, by name; the pixels that these start from are made here."""
        policy = self.policy
        backbone = policy.backbone
        of_episode, of_accurate = (self.made(image, s) for s in (self.episode, DEFAULT))
        fast = grpo_method(SEVEN)
        rlcf = rlcf_method(RLCFSettings(views=self.V, selected=min(SELECTED, self.V), tuned="whole"))
        make = plain_views(self.V, backbone.image_size, backbone.mean.tolist(), backbone.std.tolist())
        return {
            "views": lambda: frozen_pass(policy, of_episode),
            "episode": lambda: run_episode(policy, of_episode, self.episode),
            "least": lambda: least_episode(policy, of_episode, self.episode.tune(backbone).first_block),
            "rlcf": lambda: run_method(policy, of_episode, rlcf),
            "accurate_views": lambda: frozen_pass(policy, of_accurate),
            "accurate": lambda: run_episode(policy, of_accurate, DEFAULT),
            "accurate_making": lambda: self.made(image, DEFAULT),
            "fast": lambda: fast(policy, encode_for([fast], policy, [image], ("0",), SEVEN.views, SEED), {}),
            "naive": lambda: naive(self.visual, backbone.logit_scale, policy.text_features, make, image),
        }


def make_bench(model: str, V: int, dtype: torch.dtype) -> Bench:
    policy = make_policy(model, dtype)
    network, _ = load_network(model)
    visual = network.visual.eval().requires_grad_(True)
    return Bench(policy, visual, V, episode_settings(V, len(policy.backbone.blocks)))


def ratios(seconds: Mapping[str, float], trunk_rate: float, product_rate: float) -> Numbers:
    """Of one round; what they mean stands at the top of this file."""
    return {
        "episode_over_views": seconds["episode"] / seconds["views"],
        "accurate_over_views": seconds["accurate"] / seconds["accurate_views"],
        "naive_over_accurate": seconds["naive"] / (seconds["accurate_making"] + seconds["accurate"]),
        "naive_over_fast": seconds["naive"] / seconds["fast"],
        "trunk_over_matmul": trunk_rate / product_rate,
    }


def one_round(bench: Bench, number: int, per_view: int) -> dict[str, Any]:
    """Everything once on one image: seconds, rates in GFLOP/s, phases and ratios."""
    image = draw_image(number)
    calls = list(bench.calls(image).items())
    seconds: Numbers = {}
    products: list[float] = []
    for name, call in reversed(calls) if number % 2 else calls:
        if name == "views":
            products.append(matrix_rate(bench.policy.backbone.dtype))
        seconds[name] = measure_short(call)
    trunk_rate, product_rate = per_view * bench.V / seconds["views"], max(products)
    return {
        "seconds": seconds,
        "gflops": {"trunk": trunk_rate / 1e9, "matmul": product_rate / 1e9},
        "phases": phases(bench.policy, image, DEFAULT),
        "ratios": ratios(seconds, trunk_rate, product_rate),
        "beside": {f"{name}_over_views": seconds[name] / seconds["views"] for name in ("rlcf", "least")},
        "load": os.getloadavg()[0],
    }


def medians(rounds: Sequence[Mapping[str, Any]], key: str) -> Numbers:
    return {name: statistics.median(found[key][name] for found in rounds) for name in rounds[0][key]}


def flips(bench: Bench, model: str, rounds: int) -> Numbers:
    """Share of views, and of predictions after an episode, whose best class is not that of the same model in float32."""
    exact = make_policy(model, torch.float32)
    views: list[bool] = []
    predictions: list[bool] = []
    for number in range(rounds):
        made = bench.made(draw_image(number), bench.episode)
        low, high = (frozen_pass(policy, made).argmax(-1) for policy in (bench.policy, exact))
        views += (low != high).flatten().tolist()
        low, high = (run_episode(policy, made, bench.episode).after.argmax(-1) for policy in (bench.policy, exact))
        predictions += (low != high).tolist()
    shares = {"views": statistics.fmean(views), "predictions": statistics.fmean(predictions)}
    return shares | {"views_compared": len(views), "predictions_compared": len(predictions)}


def throughput(policy: Policy, counts: Sequence[int], settings: GRPOSettings) -> Numbers:
    """Images per second, views included, against how many are in flight; each count warmed up once."""
    found = {}
    for count in counts:
        images = [draw_image(number) for number in range(count)]

        def batch(images: list[Image.Image] = images) -> Adaptation:
            return run_episode(policy, make_views(policy, images, settings.views), settings)

        batch()
        found[str(count)] = count / measure_short(batch)
    return found


def fresh_peak_mb() -> float:
    """Gives freed memory back to the system and starts the peak afresh: megabytes in use now. Linux."""
    ctypes.CDLL(None).malloc_trim(0)
    reset_peak(CPU)
    return peak_memory_mb(CPU)


@final
@dataclass(frozen=True)
class Load:
    """What an episode's memory may depend on."""

    views: int
    candidates: int = 5
    classes: int = CLASSES
    images: int = 1


def peaks(model: str, load: Load, dtype: torch.dtype) -> Numbers:
    """Megabytes that the forward pass of the views and the episode on them take at the most, beyond model and pixels."""
    policy = make_policy(model, dtype, load.classes)
    blocks = len(policy.backbone.blocks)
    settings = replace(episode_settings(load.views, blocks), group=TopK(load.candidates))
    made = make_views(policy, [draw_image(number) for number in range(load.images)], settings.views)
    one = made[0][:1, :1], made[1][:1]
    run_episode(policy, one, episode_settings(1, blocks))  # what is made once for good is not counted
    base = fresh_peak_mb()
    frozen_pass(policy, made)
    views = peak_memory_mb(CPU) - base
    fresh_peak_mb()
    run_episode(policy, made, settings)
    return {"views_mb": views, "episode_mb": peak_memory_mb(CPU) - base}


def memory(arguments: argparse.Namespace) -> dict[str, dict[str, Numbers]]:
    """`peaks` against one number of the load at a time, each in a process of its own."""
    V = arguments.views
    axes = {
        "views": sorted({max(1, V // part) for part in (8, 4, 2, 1)}),
        "candidates": (1, 5, 50),
        "classes": (10, 200, 1000),
        "images": (1, 4, 16) if arguments.model in SHIPPED else (1, 4),
    }
    loads = {name: {str(value): replace(Load(V), **{name: value}) for value in values} for name, values in axes.items()}
    measured: dict[Load, Numbers] = {}
    for load in (load for of_axis in loads.values() for load in of_axis.values()):
        if load not in measured:  # the axes meet in one load
            command = [sys.executable, __file__, "--model", arguments.model, "--dtype", arguments.dtype]
            command += ["--peaks-of", json.dumps(asdict(load))]
            measured[load] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {name: {value: measured[load] for value, load in of_axis.items()} for name, of_axis in loads.items()}


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def machine() -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg(),
    }


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """The whole document."""
    at_start = machine()
    bench = make_bench(arguments.model, arguments.views, DTYPES[arguments.dtype])
    per_view = operations_of_a_view(bench.policy)
    rounds = []
    for number in range(-1, arguments.rounds):  # the first warms up
        found = one_round(bench, max(0, number), per_view)
        if number >= 0:
            rounds.append(found)
        line = " ".join(f"{name} {value:.3f}" for name, value in found["ratios"].items())
        print(f"round {number + 1}" if number >= 0 else "warm-up", line, file=sys.stderr, flush=True)
    counts = (1, 4, 16, 64) if arguments.model in SHIPPED else (1, 4, 16)
    per_second = throughput(bench.policy, counts, DEFAULT) if arguments.throughput else {}
    of_episodes = {"episode": bench.episode, "accurate": DEFAULT}
    counted = least_operations(bench.policy, of_episodes) if arguments.operations else {}
    extra = {"flips": flips(bench, arguments.model, arguments.rounds)} if arguments.dtype != "float32" else {}
    return {
        "ratios": medians(rounds, "ratios"),
        "beside": medians(rounds, "beside"),
        "seconds": medians(rounds, "seconds"),
        "gflops": medians(rounds, "gflops"),
        "phases": medians(rounds, "phases"),
        "operations": counted,
        "throughput": per_second,
        "memory": memory(arguments) if arguments.memory else {},
        **extra,
        "machine": at_start | {"load_average_at_end": os.getloadavg()},
        "settings": {
            "model": arguments.model,
            "views": arguments.views,
            "dtype": arguments.dtype,
            "rounds": arguments.rounds,
            "classes": CLASSES,
            "image": IMAGE_SIZE,
            "seed": SEED,
            "gflop_per_view": per_view / 1e9,
            "episode": to_plain(bench.episode),
            "accurate": to_plain(DEFAULT),
            "fast": to_plain(SEVEN),
            "naive": NAIVE | {"views": arguments.views},
        },
        "rounds": rounds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B-16", help="an architecture of open_clip, or nano-clip")
    parser.add_argument("--views", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument("--json", type=Path, help="where the document goes; printed where not given")
    parser.add_argument("--operations", action="store_true", help="also operations of episodes over those of their views")
    parser.add_argument("--throughput", action="store_true", help="also images per second against images in flight")
    parser.add_argument("--memory", action="store_true", help="also peak memory against views, K, classes and images (Linux)")
    parser.add_argument("--peaks-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    keep_freed_memory()  # as the commands do
    if arguments.views < 1 or arguments.rounds < 1:
        parser.error("--views and --rounds must be at least 1")
    if arguments.peaks_of:
        print(json.dumps(peaks(arguments.model, Load(**json.loads(arguments.peaks_of)), DTYPES[arguments.dtype])))
        return 0
    document = benchmark(arguments)
    if arguments.json:
        write_json(arguments.json, document)
    else:
        print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
