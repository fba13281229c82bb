"""What the service counts, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@final
class Metrics:
    """Prometheus metrics of one service; every name begins with `grpo_tta_`."""

    def __init__(self, waiting: Callable[[], int], in_work: Callable[[], int], accepted: Callable[[], int]) -> None:
        """
        Args:
            waiting, in_work, accepted: images in the queue, in the batch at work, and accepted but not answered.
        """
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("grpo_tta_requests", "Requests to classify, by outcome.", ["outcome"], registry=registry)
        self.images = Counter("grpo_tta_images", "Images that were answered.", registry=registry)
        self.changed = Counter("grpo_tta_changed", "Images whose label adaptation changed.", registry=registry)
        self.forwards = Counter("grpo_tta_forwards", "Views passed through the visual encoder.", registry=registry)
        self.seconds = Histogram(
            "grpo_tta_request_seconds",
            "From a request's first byte to its answer.",
            registry=registry,
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )
        self.batches = Histogram(
            "grpo_tta_batch_images", "Images in one batch.", registry=registry, buckets=(1, 2, 4, 8, 16, 32, 64)
        )
        for name, text, read in (
            ("grpo_tta_waiting_images", "Images in the queue.", waiting),
            ("grpo_tta_working_images", "Images in the batch at work.", in_work),
            ("grpo_tta_accepted_images", "Images accepted and not answered yet.", accepted),
        ):
            Gauge(name, text, registry=registry).set_function(read)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
