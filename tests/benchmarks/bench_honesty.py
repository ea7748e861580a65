"""How often the comparison of two models errs, on features of real photos and of generated ones.

    python -m tests.benchmarks.bench_honesty PREPARED MODEL FOLDER [--trials 200] [--images 1000] [--features 1280]

PREPARED: what `prepare` made; MODEL: folder of a trained model. Their features are kept in FOLDER: what is there is
not computed again. In each trial, real photos of the split test and three sets of generated images are drawn anew:
of the champion, of an equal model (the same one, other latents), and of a worse one, a share of whose images
have pixel noise. Sets of one trial have no image of the model in common. Superiority: how often the equal model
is found better than the champion; at most 5% is right. Non-inferiority: how often the worse one is found to be
worse by less than it is, which is its mean difference over all trials; at most 5% again, and "-" where it is not
worse by that metric. The policy's own comparison decides. `--features`: so many
of the features, the first ones, for trials that take less time.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.dataset import load_info, load_split
from components.features import EffLite0, extract
from components.generative import load_model
from components.metrics.groups import deal_groups
from components.sampling import Samples, real_images
from components.settings import load_settings
from tests.benchmarks.measuring import PROJECT
from tests.honesty import Found, Rates, Trial, measure_features, rates_of

POOL = 15_000
NOISED = 1500
NOISE = 40.0
SEED = 100


def pools(prepared: Path, model_dir: Path, folder: Path, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of real photos, of generated images, and of generated images with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    extractor, split, info = EffLite0(resolution), load_split(prepared, "test"), load_info(prepared)
    model = load_model(model_dir).eval()
    rows = np.arange(min(len(split), POOL // 3))

    def of(chunks: Iterator[Tensor], name: str, total: int) -> Tensor:
        kept = folder / f"{name}.npy"
        if not kept.exists():
            found = extract(extractor, chunks, total=total, batch_size=25, label=name).features_ND
            np.save(kept, found.numpy())
        return torch.from_numpy(np.load(kept))

    def generated(count: int, seed: int) -> Iterator[Tensor]:
        conditions_NA = split.conditions_NA[np.resize(rows, count)]
        return iter(Samples(model, conditions_NA, info.image_shape, seed))

    return (
        of(real_images(split, rows), "real", len(rows)),
        of(generated(POOL, SEED), "generated", POOL),
        of(map(noised, generated(NOISED, SEED + 1)), "noised", NOISED),
    )


def noised(images_NCHW: Tensor) -> Tensor:
    noise = torch.randn(images_NCHW.shape, generator=torch.Generator().manual_seed(len(images_NCHW))) * NOISE
    return (images_NCHW + noise).clamp(0, 255).to(torch.uint8)


def draw(real: Tensor, generated: Tensor, noised: Tensor, images: int, share: float, trials: int) -> Iterator[Trial]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(trials):
        order = torch.randperm(len(generated), generator=generator)
        champion, equal, worse = (generated[order[place * images : (place + 1) * images]] for place in range(3))
        bad = torch.rand(images, generator=generator) < share
        worse[bad] = noised[torch.randint(len(noised), (int(bad.sum()),), generator=generator)]
        chosen = torch.randperm(len(real), generator=generator)[:images]
        yield Trial(real[chosen], champion, equal, worse)


def table(found: dict[str, Rates]) -> str:
    lines = [
        "| metric | SD of equal | its SE | promoted | margin | SD of worse | its SE | passed | noticed |",
        "|---" * 9 + "|",
    ]
    lines += [
        f"| {name} | {rates.spread:.3g} | {rates.error:.3g} | {rates.promoted:.1%} | {rates.margin:.3g} | "
        f"{rates.worse_spread:.3g} | {rates.worse_error:.3g} | "
        f"{'-' if rates.passed is None else f'{rates.passed:.1%}'} | {rates.noticed:.1%} |"
        for name, rates in found.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--images", type=int, default=1000, help="of each kind in a trial, at most a third of the pool")
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--share", type=float, default=0.05, help="of the worse model's images that have noise")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = load_settings(PROJECT / "params.yaml").evaluate
    real, generated, noisy = pools(args.prepared, args.model, args.folder, settings.resolution)
    if args.images * 3 > len(generated) or args.images > len(real):
        raise SystemExit(f"--images is {args.images}; there are {len(real)} real and {len(generated)} generated images")
    started = time.perf_counter()

    def measured(trials: Iterator[Trial]) -> Iterator[Found]:
        for number, trial in enumerate(trials):
            groups_N = deal_groups(torch.zeros(len(trial.real_ND), dtype=torch.int64), number)
            yield measure_features(trial, groups_N, settings)
            if (number + 1) % 20 == 0:
                print(f"{number + 1} trials, {time.perf_counter() - started:.0f} s", flush=True)

    real, generated, noisy = (pool[:, : args.features] for pool in (real, generated, noisy))
    trials = draw(real, generated, noisy, args.images, args.share, args.trials)
    found = rates_of(measured(trials))
    head = f"{args.trials} trials, {args.images} images, {args.features} features, share {args.share:g}"
    print(f"\n{head}\n\n{table(found)}")


if __name__ == "__main__":
    main()
