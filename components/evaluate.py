"""Measures a trained model against held-out real images, and shows what it makes.

The champion in the registry is measured by the same function, with the same split and seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.dataset import DatasetInfo, Split, load_info, load_split
from components.errors import InputError
from components.feature_cache import cache_key, cached_features
from components.features import FeatureExtractor, build_extractor, extract
from components.files import write_json, written_whole
from components.generative import GenerativeModel, ModelCard, Reconstructs, load_card, load_model
from components.metrics import measure, measure_category, reconstruction_quality
from components.pictures import pictures
from components.protocol import Protocol
from components.sampling import Reconstructions, Samples, real_images
from components.settings import EvaluateSettings, load_settings
from components.sheets import rows_by_category
from components.stage import explained_errors, stage_parser
from components.tracking import metric_name, resumed_run


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and how.

    Attributes:
        metrics: by name; NaN where a metric could not be computed.
        by_category: metrics per category that the split holds; empty without conditions.
        protocol: `Protocol.text`; only results of equal protocols may be compared.
    """

    metrics: dict[str, float]
    by_category: dict[str, dict[str, float]]
    protocol: str

    def as_json(self) -> dict[str, Any]:
        """For evaluation.json: flat for `dvc metrics show`, null for what is not a finite number."""
        categories = {category: _finite_or_none(metrics) for category, metrics in self.by_category.items()}
        return {**_finite_or_none(self.metrics), "protocol": self.protocol, "by_category": categories}


def evaluate_model(
    model: GenerativeModel,
    settings: EvaluateSettings,
    prepared_dir: Path,
    device: torch.device | None = None,
) -> Evaluation:
    """Measures a model on the split that the settings name.

    Each generated image has the conditions of one of the real images, so that both have the same
    distribution of categories. A model that makes NaN or infinity gets NaN for every metric.

    Args:
        model: any family's; it is moved to the device and set to evaluation mode.
        settings: section `evaluate` of params.yaml.
        prepared_dir: data/prepared.
        device: where networks run; by default a GPU if there is one.

    Raises:
        InputError: the dataset or the feature network cannot be used, the split is too small for the
            settings, or the model makes images of another shape.
    """
    info, split = load_info(prepared_dir), load_split(prepared_dir, settings.split)
    rows = chosen_rows(len(split), settings)
    device = device or default_device()
    model = model.to(device).eval()
    extractor = build_extractor(settings).to(device)
    real_ND = _real_features(extractor, split, rows, info, settings)
    samples = Samples(model, split.conditions_NA[rows], info.image_shape, settings.seed)
    fake = extract(extractor, samples, total=len(rows), batch_size=settings.batch_size, label="generated images")
    print(f"evaluate: metrics of {len(rows)} real and {len(rows)} generated images", flush=True)
    metrics = measure(real_ND, fake, settings)
    by_category = {
        category: measure_category(real_ND[chosen], fake.features_ND[chosen], settings)
        for category, chosen in _positions_by_category(split, rows).items()
    }
    if samples.nonfinite:
        metrics = dict.fromkeys(metrics, math.nan)
        by_category = {category: dict.fromkeys(found, math.nan) for category, found in by_category.items()}
    metrics["nonfinite_samples"] = samples.nonfinite
    metrics |= _reconstruction_metrics(model, split, rows)
    return Evaluation(metrics, by_category, _protocol(settings, extractor, info, len(rows)).text)


def default_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen_rows(available: int, settings: EvaluateSettings) -> NDArray[np.int64]:
    """Which of a split's rows are measured, ascending: all, or a random choice of `samples`.

    Raises:
        InputError: too few for the settings.
    """
    count = min(available, settings.samples)
    for name, needed in (
        ("kid_subset_size", settings.kid_subset_size),
        ("neighbours", settings.neighbours + 1),
    ):
        if needed > count:
            raise InputError(
                f"params.yaml: evaluate.{name} needs {needed} real images or more, split '{settings.split}' "
                f"gives {count}; lower it, or raise data.subset, prepare.split or evaluate.samples"
            )
    order = np.random.default_rng(settings.seed).permutation(available)
    return np.sort(order[:count]).astype(np.int64)


def assert_fits(card: ModelCard, info: DatasetInfo, where: str) -> None:
    """Refuses a model that was made for other images or conditions than the dataset's.

    Raises:
        InputError: image shape, attributes or their values differ.
    """
    for name in ("image_shape", "attributes"):
        made_for, found = getattr(card, name), getattr(info, name)
        if made_for != found:
            raise InputError(f"{where}: made for {name} {made_for}, the dataset has {found}; train it again")


def evaluate(
    settings: EvaluateSettings,
    prepared_dir: Path,
    model_dir: Path,
    family: str,
    out: Path,
    pictures_dir: Path,
) -> Evaluation:
    """The stage: measures the model in a folder, writes evaluation.json and the pictures.

    Args:
        settings: section `evaluate` of params.yaml.
        prepared_dir: data/prepared.
        model_dir: folder with model.json and weights.safetensors.
        family: which family the model must be of.
        out: evaluation.json: the metrics, the protocol, and the SHA-256 of the weights that were measured.
        pictures_dir: folder for the pictures, see `components.pictures`.

    Raises:
        InputError: the model, the dataset or the feature network cannot be used.
    """
    card = load_card(model_dir)
    if card.family != family:
        raise InputError(f"{model_dir}: holds a '{card.family}', but --model is '{family}'; give its folder")
    assert_fits(card, load_info(prepared_dir), str(model_dir))
    model = load_model(model_dir)
    evaluation = evaluate_model(model, settings, prepared_dir)
    for name, picture in pictures(model, load_split(prepared_dir, settings.split), settings.seed).items():
        with written_whole(pictures_dir / name) as temporary:
            picture.save(temporary, format="PNG")
    write_json(out, {**evaluation.as_json(), "weights_sha256": card.weights_sha256})
    return evaluation


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model", required=True, help="model family")
    parser.add_argument("--prepared", type=Path, required=True, help="folder that `prepare` made")
    parser.add_argument("--weights", type=Path, required=True, help="folder that `train` made")
    parser.add_argument("--run", type=Path, required=True, help="run.json that `train` wrote")
    parser.add_argument("--out", type=Path, required=True, help="evaluation.json to write")
    parser.add_argument("--pictures", type=Path, required=True, help="folder for the pictures")
    args = parser.parse_args(argv)
    with explained_errors():
        settings = load_settings(args.params).evaluate
        with resumed_run(args.run):
            evaluation = evaluate(settings, args.prepared, args.weights, args.model, args.out, args.pictures)
            _log_to_mlflow(evaluation, args.pictures)
        print(f"{args.model}: measured with {evaluation.protocol}", flush=True)
        for name, value in evaluation.metrics.items():
            print(f"{args.model}: {name} = {value:.6g}", flush=True)


def _real_features(
    extractor: FeatureExtractor,
    split: Split,
    rows: NDArray[np.int64],
    info: DatasetInfo,
    settings: EvaluateSettings,
) -> Tensor:
    """Features of the real images, (N, D), from the cache if they are there."""

    def compute() -> Tensor:
        images = real_images(split, rows)
        size = settings.batch_size
        return extract(extractor, images, total=len(rows), batch_size=size, label="real images").features_ND

    return cached_features(cache_key(extractor, info.digest, settings.split, rows), compute)


def _positions_by_category(split: Split, rows: NDArray[np.int64]) -> dict[str, Tensor]:
    """Where in `rows` each category's images stand; a category without any is left out. Nothing without conditions."""
    if not split.attributes:
        return {}
    positions = {name: np.flatnonzero(np.isin(rows, found)) for name, found in rows_by_category(split).items()}
    return {name: torch.from_numpy(found) for name, found in positions.items() if len(found)}


def _reconstruction_metrics(model: GenerativeModel, split: Split, rows: NDArray[np.int64]) -> dict[str, float]:
    """PSNR and SSIM of a model that reconstructs; nothing for another."""
    if not isinstance(model, Reconstructs):
        return {}
    pairs = Reconstructions(model, split, rows)
    quality = reconstruction_quality(pairs)
    return dict.fromkeys(quality, math.nan) if pairs.nonfinite else quality


def _protocol(settings: EvaluateSettings, extractor: FeatureExtractor, info: DatasetInfo, count: int) -> Protocol:
    return Protocol(
        features=extractor.name,
        weights=extractor.weights_sha256,
        resolution=extractor.resolution,
        resize=extractor.resize,
        split=settings.split,
        n_real=count,
        n_fake=count,
        seed=settings.seed,
        kid_subsets=settings.kid_subsets,
        kid_subset_size=settings.kid_subset_size,
        neighbours=settings.neighbours,
        dataset=info.digest,
    )


def _log_to_mlflow(evaluation: Evaluation, pictures_dir: Path) -> None:
    """Metrics, pictures and protocol into the active run; by category as `kd_efflite0/dress`."""
    named = dict(evaluation.metrics)
    for category, metrics in evaluation.by_category.items():
        named |= {f"{name}/{metric_name(category)}": value for name, value in metrics.items()}
    mlflow.log_metrics({name: value for name, value in named.items() if math.isfinite(value)})
    mlflow.set_tag("vitrine.protocol", evaluation.protocol)
    mlflow.log_artifacts(str(pictures_dir), artifact_path="evaluation")


def _finite_or_none(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


if __name__ == "__main__":
    main()
