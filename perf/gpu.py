"""What the library does on a GPU: are the answers right, how fast, how much memory. Parts in order of worth, each resumable.

    bash perf/gpu.sh results             # at most 12 minutes on one GPU; a part whose JSON is there is not run again
    bash perf/gpu.sh results --cpu-smoke # the same code with small sizes on the CPU, in under a minute

- answers: log-probabilities of every method on the device against those on the CPU in float32, and the lines at which the
  host waits for the device.
- rates: episodes per second from views on the device and from decoded images, by model, preset, precision and images in
  flight; operations per second of the frozen pass over those of a product of large matrices.
- memory: peak memory per image in flight, and the batch that `--batch auto` chooses.
- images: milliseconds per image for decoding and for making views, on the device and on the CPU.
- compiled: the frozen pass as it is, by `torch.compile` and as a CUDA graph; the policy step as it is and as a graph.
- replicas: two actors of Ray that share the device.

Models have the true size and random weights; classes are random unit vectors; images are low-pass noise. The numbers of a
clock are medians after a warm-up.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import open_clip
import torch
from overhead import OF_ONEDNN
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from grpo_tta.backbones.base import load_backbone
from grpo_tta.backbones.open_clip import OpenClipBackbone
from grpo_tta.backbones.prompts import ClassPrompts, make_prompts
from grpo_tta.baselines.registry import known_methods
from grpo_tta.bench.records import write_json
from grpo_tta.data.tasks import nano_tasks
from grpo_tta.engine.encode import CHUNK, encode_for, encode_views, prepare_images
from grpo_tta.engine.in_flight import choose_batch, measure_need
from grpo_tta.engine.interface import ImageBatch, Method
from grpo_tta.engine.policy import Policy
from grpo_tta.images.views import ViewSettings
from grpo_tta.method.grpo import grpo_method
from grpo_tta.method.settings import DEFAULT, FAST

CLASSES, SEED = 200, 0
SEVEN = replace(FAST, views=replace(FAST.views, views=7), early_exit=None)
"""`fast` with the views that a trained model needs on average; one of random weights would need them all."""
PRESETS = {"default": DEFAULT, "fast": SEVEN}
Json = dict[str, Any]


@final
@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        models: of open_clip.
        in_flight: images in one pass.
        image: width and height of a drawn image.
        matrix: side of the matrices of the yardstick.
        repeat: least seconds for which a call is timed.
        methods: of the part `answers`; all where there are none.
        precisions: of the part `rates`.
    """

    models: tuple[str, ...] = ("ViT-B-16", "ViT-L-14")
    in_flight: tuple[int, ...] = (1, 4, 16, 32, 64, 256)
    image: tuple[int, int] = (500, 375)
    matrix: int = 8192
    repeat: float = 0.4
    methods: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("bfloat16", "float32", "tf32", "float16")


SMOKE = Sizes(("nano-clip",), (1, 2), (100, 75), 64, 0.0, ("zero-shot", "grpo-tta", "grpo-tta-fast"), ("float32",))


@contextmanager
def precision(name: str) -> Iterator[torch.dtype]:
    """`tf32` is float32 with products rounded on the way in; the others are what they are called."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        yield torch.float32 if name == "tf32" else getattr(torch, name)
    finally:
        torch.set_float32_matmul_precision(before)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], object], device: torch.device, repeat: float) -> float:
    """Median of one call, after one that warms up; repeated until `repeat` seconds are spent."""
    call()
    wait(device)
    found: list[float] = []
    while not found or sum(found) < repeat:
        began = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def make_policy(model: str, device: torch.device, dtype: torch.dtype) -> Policy:
    """The frozen model in `dtype` over random classes. Weights are drawn on the device, in a fraction of the time."""
    if model == "nano-clip":
        backbone: Any = load_backbone(model, device=device)
    else:
        torch.manual_seed(SEED)
        with device:
            network, _, preprocess = open_clip.create_model_and_transforms(model, pretrained=None, device=device)
        network.visual.to(dtype)
        backbone = OpenClipBackbone(model, network, preprocess, _no_tokens)
    S = backbone.image_size
    with torch.no_grad():
        tokens = backbone.stem(torch.zeros(1, 3, S, S, device=device))
        for block in backbone.blocks:
            tokens = block(tokens)
        width = backbone.head(tokens).shape[-1]
    features = F.normalize(torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(SEED)), dim=-1)
    return Policy(backbone, ClassPrompts(tuple(f"class {n}" for n in range(CLASSES)), ("{}",), ("{}",), features))


def _no_tokens(prompts: list[str]) -> Tensor:
    raise NotImplementedError("the classes are random vectors; no text is read")


def draw_images(count: int, size: tuple[int, int]) -> list[Image.Image]:
    made = []
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
        noisy = np.asarray(coarse) + rng.normal(0, 8, (size[1], size[0], 3))
        made.append(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)))
    return made


def names_of(count: int) -> tuple[str, ...]:
    return tuple(str(number) for number in range(count))


def random_views(policy: Policy, count: int, views: int, content_free: int) -> tuple[Tensor, Tensor]:
    """Normal noise on the device, in place of made views: `[B, V, 3, S, S]`, `[B, P, 3, S, S]`."""
    S, device = policy.backbone.image_size, policy.backbone.device
    both = torch.randn(count, views + content_free, 3, S, S, device=device)
    return both[:, :views], both[:, views:]


def episode(policy: Policy, method: Method, views: Tensor, content_free: Tensor) -> Tensor:
    """From views on the device to the prediction."""
    encoded = encode_views(policy, views, content_free, method.cached_blocks(policy.backbone))
    batch = ImageBatch(names_of(len(views)), views, content_free, encoded, SEED)
    return method(policy, batch, {})[0].after


def from_images(policy: Policy, method: Method, images: Sequence[Image.Image], settings: ViewSettings) -> Tensor:
    """From decoded images to the prediction."""
    return method(policy, encode_for([method], policy, images, names_of(len(images)), settings, SEED), {})[0].after


# answers


def answers(device: torch.device, sizes: Sizes) -> Json:
    """Every method on two images of the nano suite, on the device and on the CPU."""
    task = nano_tasks(["fog"], "tuning", 2)[0]
    images = [task.load(number)[0] for number in range(2)]
    here, there = (
        Policy(backbone, make_prompts(backbone, task.classes, task.templates, task.ensemble, cache=False))
        for backbone in (load_backbone("nano-clip"), load_backbone("nano-clip", device=device))
    )
    known = known_methods()
    found: Json = {}
    for name in sizes.methods or known:
        try:
            expected, got = (_answer(policy, known[name], images, task.image_ids) for policy in (here, there))
            off = float((got.cpu() - expected).exp().sub(1).abs().mul(expected.exp()).max())
            found[name] = {"largest_difference": off, "same_labels": bool((got.cpu().argmax(-1) == expected.argmax(-1)).all())}
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"}
    wrong = [name for name, row in found.items() if not row.get("largest_difference", 1.0) <= 1e-3]
    return {"methods": found, "beyond_1e-3": wrong, "waits": waits(there, images, task.image_ids)}


def _answer(policy: Policy, method: Method, images: Sequence[Image.Image], ids: Sequence[str]) -> Tensor:
    return method(policy, encode_for([method], policy, images, ids[:2], ViewSettings(), SEED), {})[0].after


def waits(policy: Policy, images: Sequence[Image.Image], ids: Sequence[str]) -> Json:
    """Lines at which the host waits for the device, with how often, by preset and images in flight."""
    if policy.backbone.device.type != "cuda":
        return {}
    found: Json = {}
    for preset, settings in PRESETS.items():
        method = grpo_method(settings)
        for count in (2, 8):
            several = [images[number % 2] for number in range(count)]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                from_images(policy, method, several, settings.views)
                torch.cuda.set_sync_debug_mode("default")
            lines: dict[str, int] = {}
            for one in caught:
                if "synchroniz" in str(one.message):
                    place = f"{Path(one.filename).name}:{one.lineno}"
                    lines[place] = lines.get(place, 0) + 1
            found[f"{preset}, {count} images"] = lines
    return found


# rates


def rates(device: torch.device, sizes: Sizes) -> Json:
    found: Json = {}
    for kind in sizes.precisions:
        with precision(kind) as dtype:
            product = matrix_rate(device, dtype, sizes)
            found[kind] = {"matrix_tflops": product / 1e12}
            for model in sizes.models:
                policy = make_policy(model, device, dtype)
                few = kind == "bfloat16" or device.type == "cpu"
                counts = sizes.in_flight if few else (1, 32)
                found[kind][model] = rates_of(policy, device, counts, sizes) | trunk_rate(policy, device, product, sizes)
                print(json.dumps({kind: {model: found[kind][model]}}), flush=True)  # kept by the log where the time runs out
                del policy
    return found


def rates_of(policy: Policy, device: torch.device, counts: Sequence[int], sizes: Sizes) -> Json:
    """Images per second."""
    out: Json = {}
    for preset, settings in PRESETS.items():
        method = grpo_method(settings)
        V, P = settings.views.views, settings.views.content_free
        made: dict[str, float] = {}
        whole: dict[str, float] = {}
        for count in counts:
            try:
                if preset == "default":
                    views = random_views(policy, count, V, P)
                    made[str(count)] = count / seconds(lambda: episode(policy, method, *views), device, sizes.repeat)  # noqa: B023
                    del views
                if count <= 64:
                    images = draw_images(count, sizes.image)
                    taken = seconds(lambda: from_images(policy, method, images, settings.views), device, sizes.repeat)  # noqa: B023
                    whole[str(count)] = count / taken
            except torch.cuda.OutOfMemoryError:
                made[str(count)] = 0.0
                torch.cuda.empty_cache()
        out[preset] = {"from_views": made, "from_images": whole} if made else {"from_images": whole}
    return out


def matrix_rate(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> float:
    """Operations per second of a product of two large random matrices."""
    n = sizes.matrix
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device, min(sizes.repeat, 0.2))


def trunk_rate(policy: Policy, device: torch.device, product: float, sizes: Sizes) -> Json:
    """The frozen pass and a whole default episode over 64 views: their rate over the product's, and their time's ratio."""
    V = 64 if device.type == "cuda" else 4
    per_view = operations(policy)
    method = grpo_method(replace(DEFAULT, views=replace(DEFAULT.views, views=V, content_free=4)))
    out: Json = {"gflop_per_view": per_view / 1e9}
    for count in (1, 8) if device.type == "cuda" else (1,):
        views = random_views(policy, count, V, 4)
        trunk = seconds(lambda: encode_views(policy, *views), device, sizes.repeat)  # noqa: B023
        all_of_it = seconds(lambda: episode(policy, method, *views), device, sizes.repeat)  # noqa: B023
        rate = per_view * count * (V + 4) / trunk
        out[f"{count} x {V} views"] = {"trunk_over_matmul": rate / product, "episode_over_views": all_of_it / trunk}
    return out


@torch.no_grad()
def operations(policy: Policy) -> int:
    """Floating-point operations of one view's forward pass (products only)."""
    views = random_views(policy, 1, 1, 0)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a fused kernel would be counted as nothing
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=OF_ONEDNN) as counter:
            encode_views(policy, *views)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


# memory


def memory(device: torch.device, sizes: Sizes) -> Json:
    """Megabytes per image in flight beyond the model, from the peaks at two counts; what `--batch auto` counts, and chooses."""
    if device.type != "cuda":  # the peak of one process on the CPU says little; see overhead.py --memory
        return {model: _counted(make_policy(model, device, torch.float32)) for model in sizes.models}
    found: Json = {}
    for model in sizes.models:
        for kind in ("bfloat16", "float32"):
            with precision(kind) as dtype:
                policy = make_policy(model, device, dtype)
                method, peaks = grpo_method(DEFAULT), {}
                for count in (1, 9):
                    torch.cuda.empty_cache()
                    images = draw_images(count, sizes.image)
                    torch.cuda.reset_peak_memory_stats(device)
                    base = torch.cuda.memory_allocated(device)
                    from_images(policy, method, images, DEFAULT.views)
                    peaks[count] = (torch.cuda.max_memory_allocated(device) - base) / 1e6
                free, total = torch.cuda.mem_get_info(device)
                counted = _counted(policy)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
                from_images(policy, method, draw_images(counted["auto"], sizes.image), DEFAULT.views)
                found[f"{model} {kind}"] = {
                    "one_mb": peaks[1],
                    "each_more_mb": (peaks[9] - peaks[1]) / 8,
                    "free_mb": free / 1e6,
                    "total_mb": total / 1e6,
                    "peak_of_auto_mb": (torch.cuda.max_memory_allocated(device) - base) / 1e6,
                    **counted,
                }
                del policy
    return found


def _counted(policy: Policy) -> Json:
    """What `--batch auto` counts for the default in MB, and how many images it takes."""
    methods = [grpo_method(DEFAULT)]
    need = measure_need(policy, methods)
    one, nine = (max(min(n * need.views, CHUNK) * need.view, n * need.step) + n * need.stored for n in (1, 9))
    return {"counted_one_mb": one / 1e6, "counted_each_more_mb": (nine - one) / 8e6, "auto": choose_batch(policy, methods)}


# images


def images(device: torch.device, sizes: Sizes) -> Json:
    """Milliseconds per image."""
    count = 16 if device.type == "cuda" else 2
    drawn = draw_images(count, sizes.image)
    files = []
    for one in drawn:
        buffer = io.BytesIO()
        one.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    found: Json = {"decode_pillow_ms": 1000 / count * seconds(lambda: [_decoded(f) for f in files], device, sizes.repeat)}
    if device.type == "cuda":
        try:
            from torchvision.io import decode_jpeg

            raw = [torch.frombuffer(bytearray(f), dtype=torch.uint8) for f in files]
            taken = seconds(lambda: decode_jpeg(raw, device=device), device, sizes.repeat)
            found["decode_on_device_ms"] = 1000 / count * taken
        except Exception as error:
            found["decode_on_device_ms"] = f"{type(error).__name__}: {error}"
    for where in {device, torch.device("cpu")}:
        policy = make_policy("nano-clip" if sizes.models == SMOKE.models else "ViT-B-16", where, torch.float32)

        def making(policy: Policy = policy) -> None:
            batch = prepare_images(policy.backbone, drawn, names_of(count), DEFAULT.views, SEED)
            batch.views(range(DEFAULT.views.views))
            batch.content_free()

        found[f"making_views_on_{where.type}_ms"] = 1000 / count * seconds(making, where, sizes.repeat)
        whole = seconds(lambda p=policy: [p.backbone.preprocess(one) for one in drawn], where, sizes.repeat)  # type: ignore[misc]
        found["preprocess_on_cpu_ms"] = 1000 / count * whole
    return found


def _decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


# compiled


def compiled(device: torch.device, sizes: Sizes) -> Json:
    """Milliseconds of the frozen pass over one image's and sixteen images' views: eager, compiled, as a graph."""
    if device.type != "cuda":
        return {"skipped": "graphs are CUDA's"}
    found: Json = {}
    policy = make_policy("ViT-B-16", device, torch.bfloat16)
    backbone = policy.backbone

    @torch.no_grad()
    def trunk(x: Tensor) -> Tensor:
        tokens = backbone.stem(x)
        for block in backbone.blocks:
            tokens = block(tokens)
        return backbone.head(tokens)

    S = backbone.image_size
    faster = torch.compile(trunk)
    for count in (28, 448):
        x = torch.randn(count, 3, S, S, device=device)
        row = {"eager_ms": 1000 * seconds(lambda: trunk(x), device, sizes.repeat)}  # noqa: B023
        began = time.perf_counter()
        try:
            faster(x)
            wait(device)
            row["compiling_s"] = time.perf_counter() - began
            row["compiled_ms"] = 1000 * seconds(lambda: faster(x), device, sizes.repeat)  # noqa: B023
        except Exception as error:
            row["compiled_error"] = f"{type(error).__name__}: {error}"[:300]  # type: ignore[assignment]
        try:
            graph = captured(lambda: trunk(x))  # noqa: B023
            row["graph_ms"] = 1000 * seconds(graph.replay, device, sizes.repeat)
            del graph
        except Exception as error:
            row["graph_error"] = f"{type(error).__name__}: {error}"[:300]  # type: ignore[assignment]
        found[f"trunk, {count} views"] = row
    found["step"] = graphed_step(policy, device, sizes)
    return found


def graphed_step(policy: Policy, device: torch.device, sizes: Sizes) -> Json:
    """The policy step of the default on one image, eager and as a graph."""
    tunable = DEFAULT.tune(policy.backbone)
    views = random_views(policy, 1, DEFAULT.views.views, DEFAULT.views.content_free)
    encoded = encode_views(policy, *views, [tunable.first_block])
    tokens = encoded.tokens[tunable.first_block][:, : DEFAULT.views.views]
    target = encoded.log_probs[:, : DEFAULT.views.views].detach()

    def step() -> Tensor:
        params = tunable.start(1)
        with torch.enable_grad():
            value = (policy.adapted(tokens, tunable, params) * target.exp()).sum()
            gradients = torch.autograd.grad(value, list(params.values()))
        return torch.cat([g.flatten() for g in gradients])

    row: Json = {"eager_ms": 1000 * seconds(step, device, sizes.repeat)}
    try:
        graph = captured(step)
        row["graph_ms"] = 1000 * seconds(graph.replay, device, sizes.repeat)
    except Exception as error:
        row["graph_error"] = f"{type(error).__name__}: {error}"[:300]
    return row


def captured(call: Callable[[], Tensor]) -> torch.cuda.CUDAGraph:
    """A call recorded as a graph, after three runs on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


# replicas


def replicas(device: torch.device, sizes: Sizes) -> Json:
    """Two actors with half of the device each against one that has it alone, through the cluster's own code."""
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        return {"skipped": "ray is not installed"}
    if device.type != "cuda":
        return {"skipped": "tests/perf/test_ray_scaling.py runs this on halves of a CPU"}
    from ray_scaling import replicas as measured  # the script beside this one

    from grpo_tta.cluster.jobs import ModelName

    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        network = open_clip.create_model(sizes.models[0], pretrained=None)
        save_file({name: value.contiguous() for name, value in network.state_dict().items()}, weights)
        model = ModelName(sizes.models[0], "cuda", dtype="bfloat16", weights=str(weights))
        return measured(model, 512, 32, Path(folder) / "out", cpus=8.0, gpus=1.0)


PARTS: dict[str, Callable[[torch.device, Sizes], Json]] = {
    "answers": answers,
    "rates": rates,
    "memory": memory,
    "images": images,
    "compiled": compiled,
    "replicas": replicas,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--out", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--cpu-smoke", action="store_true", help="small sizes on the CPU")
    parser.add_argument("--precisions", help="of the part rates, separated by commas; all by default")
    parser.add_argument("--again", action="store_true", help="run a part whose file is there")
    given = parser.parse_args(arguments)
    path = given.out / f"{given.part}.json"
    if path.exists() and not given.again:
        print(f"{given.part}: {path} is there")
        return 0
    if not given.cpu_smoke and not torch.cuda.is_available():
        print("no CUDA device is available; try --cpu-smoke", file=sys.stderr)
        return 2
    device = torch.device("cpu" if given.cpu_smoke else "cuda")
    began = time.perf_counter()
    sizes = SMOKE if given.cpu_smoke else Sizes()
    if given.precisions:
        sizes = replace(sizes, precisions=tuple(given.precisions.split(",")))
    found = PARTS[given.part](device, sizes)
    name = "CPU" if given.cpu_smoke else torch.cuda.get_device_name(device)
    about = {"device": name, "torch": torch.__version__, "seconds": time.perf_counter() - began}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, about | found)
    print(json.dumps({given.part: about | found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
