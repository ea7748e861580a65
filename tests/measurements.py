"""Measurements for tests of what reads them."""

import math

from components.measurement import GROUPS, Estimate, Measurement
from components.protocol import Protocol

PROTOCOL = Protocol(
    features="efflite0",
    weights="5793" * 16,
    resolution=96,
    resize="bilinear-antialias",
    split="test",
    n_real=5000,
    n_fake=5000,
    per_category=100,
    seed=7,
    neighbours=3,
    train_photos=20000,
    copy_samples=1000,
    copy_quantile=0.01,
    dataset="ab12" * 16,
)
WEIGHTS_SHA256 = "a" * 64


def estimate(value: float, error: float = 0.0, floor: float | None = None) -> Estimate:
    """An estimate with this standard error: half of the replicates above the value, half below."""
    deviation = error / math.sqrt(GROUPS - 1)
    return Estimate(value, tuple(value + deviation * (-1) ** group for group in range(GROUPS)), floor)


def measurement(
    metrics: dict[str, Estimate],
    by_category: dict[str, dict[str, Estimate]] | None = None,
    *,
    protocol: Protocol | str = PROTOCOL,
    weights_sha256: str = WEIGHTS_SHA256,
) -> Measurement:
    text = protocol.text if isinstance(protocol, Protocol) else protocol
    return Measurement(metrics, by_category or {}, text, weights_sha256)
