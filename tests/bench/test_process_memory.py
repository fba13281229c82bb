"""Peak memory of a run: not a matter of how many images there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")

# ru_maxrss would be the parent's at the time of the fork, if that is larger
MEASURE = """
import sys
from pathlib import Path
from grpo_tta.bench.runner import run
from grpo_tta.bench.runs import RunSettings
from grpo_tta.data.custom import custom_task
from grpo_tta.baselines.registry import choose_methods
from grpo_tta.backbones.base import load_backbone
data, labels, method, out = sys.argv[1:]
task = custom_task(Path(data), template="a {}.", labels_file=Path(labels))
run(load_backbone("nano-clip"), [task], choose_methods([method]), Path(out), RunSettings(batch=8))
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak(data: Path, labels: Path, method: str, out: Path) -> float:
    """Megabytes that a run takes at the most."""
    command = [sys.executable, "-c", MEASURE, str(data), str(labels), method, str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) / 1024


def noise(count: int, side: int, folder: Path) -> list[bytes]:
    """Uncompressed images of two classes, a and b, in a folder per class."""
    rng = np.random.default_rng(0)
    for n in range(count):
        path = folder / "ab"[n % 2] / f"{n}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return [(folder / "ab"[n % 2] / f"{n}.bmp").read_bytes() for n in range(count)]


def test_peak_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\n")
    peaks = {}
    for count in (16, 272):
        folder, parquet = tmp_path / f"{count}", tmp_path / f"{count}.parquet"
        frame = pd.DataFrame({"image": noise(count, 256, folder), "label": ["ab"[n % 2] for n in range(count)]})
        frame.to_parquet(parquet, compression=None, row_group_size=16)
        for source in (folder, parquet):
            peaks[count, source.suffix] = peak(source, labels, "zero-shot", tmp_path / "runs" / source.name)
    # 256 images more are 50 MB, encoded as well as decoded
    for kind in ("", ".parquet"):
        assert peaks[272, kind] - peaks[16, kind] < 20, peaks
