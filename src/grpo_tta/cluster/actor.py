"""The actor: a process of Ray that holds the model."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import final

import pyarrow as pa
import torch
from ray.data import DataContext

from grpo_tta.backbones.allocator import keep_freed_memory
from grpo_tta.cluster.attempts import Attempts
from grpo_tta.cluster.jobs import Job
from grpo_tta.cluster.settings import RaySettings
from grpo_tta.errors import UserError, counted


@final
class Adapter:
    """The actor: holds the model and turns a chunk of the manifest into rows."""

    def __init__(self, job: Job, settings: RaySettings, notes: str) -> None:
        torch.set_num_threads(max(1, int(settings.cpus)))
        keep_freed_memory()
        self._work = job.start()
        if settings.memory_gb is not None and not settings.gpus:
            _limit_memory(settings.memory_gb)
        self._attempts = Attempts(notes)

    def __call__(self, table: pa.Table) -> pa.Table:
        ids = table["image_id"].to_pylist()
        rows = pa.concat_tables(self._attempts.run(ids, lambda some, given_up: self._work(table[some], given_up)))
        # Ray would cut a larger block anywhere, between the rows of one image too, and commit the parts one by one.
        if rows.nbytes > DataContext.get_current().target_max_block_size:
            raise UserError(
                f"The rows of {counted(len(ids), 'image')} take {rows.nbytes / 1e6:.0f} MB, too much; lower --chunk."
            )
        return rows


def _limit_memory(gigabytes: float) -> None:
    """Lets the private memory of this process grow by so much; beyond it, allocations raise instead of killing it."""
    status = Path("/proc/self/status")
    if status.is_file():
        now = next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmData:"))
        resource.setrlimit(resource.RLIMIT_DATA, (now + int(gigabytes * 1e9), resource.RLIM_INFINITY))
