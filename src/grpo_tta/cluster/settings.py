"""What a run on Ray may take. Imports no Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from grpo_tta.errors import UserError


@final
@dataclass(frozen=True)
class RaySettings:
    """
    Attributes:
        actors: how many processes hold the model. Ray places them where there is room.
        cpus: of each actor. torch runs as many threads (at least one).
        gpus: of each actor. Below 1, several share a GPU, and one reads while another computes.
        memory_gb: of each actor, beyond what it takes with the model loaded. None: no limit. Ray reserves it; on Linux and
            without a GPU it is also enforced, so that an image too large for it becomes a row with an error.
        chunk: images handed to an actor at once, one file of rows each. A killed run repeats at most so many per actor.
        address: of a running Ray. None takes RAY_ADDRESS, which `ray job submit` sets, or starts Ray here.
        object_store_mb: of a Ray started here; None leaves it to Ray.
    """

    actors: int = 2
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gb: float | None = None
    chunk: int = 128
    address: str | None = None
    object_store_mb: int | None = None

    def __post_init__(self) -> None:
        if self.actors < 1 or self.chunk < 1:
            raise UserError("Actors and chunk must be at least 1.")
        if self.cpus <= 0 or self.gpus < 0 or (self.memory_gb is not None and self.memory_gb <= 0):
            raise UserError("The CPUs and the memory of an actor must be above 0, its GPUs at least 0.")

    def resources(self) -> dict[str, float]:
        """What Ray is asked for per actor."""
        memory = {} if self.memory_gb is None else {"memory": int(self.memory_gb * 1e9)}
        return {"num_cpus": self.cpus, "num_gpus": self.gpus} | memory
