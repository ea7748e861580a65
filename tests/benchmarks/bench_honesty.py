"""How often the comparison of two models errs, on real photos and generated images.

    python -m tests.benchmarks.bench_honesty PREPARED MODEL FOLDER [--trials 200] [--images 1000] [--features 1280]

PREPARED: what `prepare` made; MODEL: folder of a trained model. What is seen of the images is kept in FOLDER: what is
there is not computed again. In each trial, real photos of the split test and three sets of generated images, and of
pairs of them, are drawn anew: of the champion, of an equal model (the same one, other latents), and of a worse one, a
share of whose images are training photos with pixel noise. Sets of one trial have no image of the model in common.
Superiority: how often the equal model is found better than the champion; at most 5% is right. Non-inferiority: how
often the worse one is found to be worse by less than it is, which is its mean difference over all trials; at most 5%
again, and "-" where it is not worse by that metric. The policy's own comparison decides. `--features`: so many of the
features, the first ones, for trials that take less time; of `--pool` generated images, a third as many real ones.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from components.copying.measure import NEIGHBOURS, nearest_distances, relative_distances
from components.copying.pixels import index_photos, nearest_photos
from components.dataset import load_info, load_split
from components.features import EffLite0, Features, extract
from components.generative import load_model
from components.metrics.groups import deal_groups
from components.sampling import Samples, real_images
from components.settings import load_settings
from tests.benchmarks.measuring import PROJECT
from tests.honesty import Found, Rates, Seen, Trial, measure_seen, rates_of

COPIES, NOISE = 1000, 40.0
"""Training photos with noise, and its deviation."""
SEED = 100


class Onlooker:
    """Sees images as an evaluation does, and looks for them among the training photos."""

    def __init__(self, prepared: Path, model_dir: Path, resolution: int, pool: int) -> None:
        self.extractor, self.info = EffLite0(resolution), load_info(prepared)
        self.train, self.test = load_split(prepared, "train"), load_split(prepared, "test")
        self.model = load_model(model_dir).eval()
        self.photos = index_photos(self.train)
        shuffled_N = np.random.default_rng(SEED).permutation(len(self.train))
        self.copied_N, searched_N = shuffled_N[:COPIES], shuffled_N[:pool]
        self.train_ND = self._features(torch.cat(list(real_images(self.train, searched_N))), "train").features_ND
        self.held_out_N = np.arange(min(len(self.test), pool // 3))
        self.conditions_NA = self.test.conditions_NA[np.resize(self.held_out_N, pool)]

    def pools(self) -> tuple[Seen, Seen, Seen]:
        """Real photos, generated images, and training photos with noise."""
        generated = Samples(self.model, self.conditions_NA, self.info.image_shape, SEED)
        return (
            self._see(torch.cat(list(real_images(self.test, self.held_out_N))), "real"),
            self._see(torch.cat(list(generated)), "generated"),
            self._see(noised(torch.from_numpy(self.train.gather(self.copied_N))), "copies"),
        )

    def _features(self, images_NCHW: Tensor, label: str) -> Features:
        chunks, total = images_NCHW.split(100), len(images_NCHW)
        return extract(self.extractor, chunks, total=total, batch_size=50, label=label, pairs=True)

    def _see(self, images_NCHW: Tensor, label: str) -> Seen:
        found = self._features(images_NCHW, label)
        near_NK = nearest_distances(found.features_ND, self.train_ND, NEIGHBOURS + 1)
        pixels_NK = nearest_photos(images_NCHW, self.photos).distances_NK
        relative_N, pixels_N = relative_distances(near_NK), relative_distances(pixels_NK)
        return Seen(found.features_ND, found.pair_distances, relative_N, pixels_N)


def noised(images_NCHW: Tensor) -> Tensor:
    noise = torch.randn(images_NCHW.shape, generator=torch.Generator().manual_seed(len(images_NCHW))) * NOISE
    return (images_NCHW + noise).clamp(0, 255).to(torch.uint8)


def kept_pools(args: argparse.Namespace, resolution: int) -> tuple[Seen, Seen, Seen]:
    """From the folder, if they are there."""
    kept = args.folder / f"pools-{args.pool}.pt"
    if not kept.exists():
        args.folder.mkdir(parents=True, exist_ok=True)
        torch.save([vars(seen) for seen in Onlooker(args.prepared, args.model, resolution, args.pool).pools()], kept)
    real, generated, copies = (Seen(**found) for found in torch.load(kept, weights_only=True))
    return real, generated, copies


def chosen_of(seen: Seen, rows_N: Tensor, pairs: Tensor) -> Seen:
    """Some images, and the distances of some pairs, which need not be theirs: no metric asks for both."""
    pixels_N, relative_N = seen.relative_pixels_N, seen.relative_features_N
    assert pixels_N is not None
    assert relative_N is not None
    return Seen(seen.features_ND[rows_N], seen.pair_distances[pairs], relative_N[rows_N], pixels_N[rows_N])


def joined(first: Seen, second: Seen) -> Seen:
    known = (name for name, found in vars(first).items() if found is not None)
    return Seen(**{name: torch.cat([getattr(first, name), getattr(second, name)]) for name in known})


def draw(real: Seen, generated: Seen, copies: Seen, images: int, share: float, trials: int) -> Iterator[Trial]:
    generator, both = torch.Generator().manual_seed(0), joined(generated, copies)

    def models(total: int, copied: int, count: int) -> Iterator[Tensor]:
        """Numbers of the champion's, the equal and the worse model's images or pairs, each bad by itself."""
        order = torch.randperm(total, generator=generator)
        champion, equal, worse = (order[place * count : (place + 1) * count] for place in range(3))
        bad = torch.rand(count, generator=generator) < share
        worse[bad] = total + torch.randint(copied, (int(bad.sum()),), generator=generator)
        yield from (champion, equal, worse)

    for _ in range(trials):
        rows = models(len(generated.features_ND), len(copies.features_ND), images)
        pairs = models(len(generated.pair_distances), len(copies.pair_distances), images // 2)
        held_N = torch.randperm(len(real.features_ND), generator=generator)[:images]
        of_real = chosen_of(real, held_N, torch.randperm(len(real.pair_distances), generator=generator)[: images // 2])
        yield Trial(of_real, *(chosen_of(both, *place) for place in zip(rows, pairs, strict=True)))


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
    parser.add_argument("--pool", type=int, default=15_000, help="generated images")
    parser.add_argument("--features", type=int, default=1280)
    parser.add_argument("--share", type=float, default=0.05, help="of the worse model's images that are copies")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = load_settings(PROJECT / "params.yaml").evaluate
    pools = kept_pools(args, settings.resolution)
    real, generated, copies = (replace(seen, features_ND=seen.features_ND[:, : args.features]) for seen in pools)
    if args.images * 3 > len(generated.features_ND) or args.images > len(real.features_ND):
        there = f"{len(real.features_ND)} real and {len(generated.features_ND)} generated images"
        raise SystemExit(f"--images is {args.images}; there are {there}")
    started = time.perf_counter()

    def measured(trials: Iterator[Trial]) -> Iterator[Found]:
        for number, trial in enumerate(trials):
            groups_N = deal_groups(torch.zeros(len(trial.real.features_ND), dtype=torch.int64), number)
            yield measure_seen(trial, groups_N, settings)
            if (number + 1) % 20 == 0:
                print(f"{number + 1} trials, {time.perf_counter() - started:.0f} s", flush=True)

    found = rates_of(measured(draw(real, generated, copies, args.images, args.share, args.trials)))
    head = f"{args.trials} trials, {args.images} images, {args.features} features, share {args.share:g}"
    print(f"\n{head}\n\n{table(found)}")


if __name__ == "__main__":
    main()
