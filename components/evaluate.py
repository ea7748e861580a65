"""Measures a trained model against held-out real images, and shows what it makes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from PIL import Image

from components.dataset import DatasetInfo, load_info, load_split
from components.errors import InputError
from components.files import write_json, written_whole
from components.generative import ModelCard, load_card, load_model
from components.glossary import possible
from components.measurement import Estimate, Estimates, Measurement, write_measurement
from components.measuring import measure_model
from components.memory import keep_freed_memory
from components.pictures import closest_pairs, pictures
from components.settings import EvaluateSettings, load_settings
from components.stage import explained_errors, stage_parser
from components.tracking import metric_name, resumed_run


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
    settings: EvaluateSettings, prepared_dir: Path, model_dir: Path, family: str, pictures_dir: Path
) -> Measurement:
    """The stage: measures the model in a folder, and writes the pictures.

    Args:
        settings: section `evaluate` of params.yaml.
        prepared_dir: data/prepared.
        model_dir: folder with model.json and weights.safetensors.
        family: which family the model must be of.
        pictures_dir: folder for the pictures, see `components.pictures`.

    Raises:
        InputError: the model, the dataset or the feature network cannot be used.
    """
    card = load_card(model_dir)
    if card.family != family:
        raise InputError(f"{model_dir}: holds a '{card.family}', but --model is '{family}'; give its folder")
    assert_fits(card, load_info(prepared_dir), str(model_dir))
    model = load_model(model_dir)
    measured = measure_model(model, card.weights_sha256, settings, prepared_dir)
    made = pictures(model, load_split(prepared_dir, settings.split), settings.seed)
    if measured.closest:
        made["closest_pairs.png"] = closest_pairs(measured.closest)
    for name, picture in made.items():
        with written_whole(pictures_dir / name) as temporary:
            picture.save(temporary, format="PNG")
    return measured.measurement


def summary(measurement: Measurement) -> dict[str, Any]:
    """For evaluation.json: values alone, flat for `dvc metrics show`; null for what is no finite number."""
    categories = {category: _values(metrics) for category, metrics in measurement.by_category.items()}
    return {
        **_values(measurement.metrics),
        "protocol": measurement.protocol,
        "weights_sha256": measurement.weights_sha256,
        "by_category": categories,
    }


def _values(metrics: Estimates) -> dict[str, float | None]:
    return {name: found.value if math.isfinite(found.value) else None for name, found in metrics.items()}


def log_measurement(measurement: Measurement, pictures_dir: Path) -> None:
    """Metrics, the ends of their intervals, pictures and protocol into the active run.

    MLflow's page groups charts by what stands before the last slash: `evaluation/fd_efflite0` over all
    images comes before `evaluation/fd_efflite0/dress`, and the ends stand apart.
    """
    named = {}
    for category, metrics in {"": measurement.metrics, **measurement.by_category}.items():
        for name, found in metrics.items():
            named[f"evaluation/{name}/{metric_name(category)}" if category else f"evaluation/{name}"] = found.value
            if found.interval is not None and not category:
                low, high = possible(name, found.interval)
                named |= {f"evaluation_interval/{name}.low": low, f"evaluation_interval/{name}.high": high}
    mlflow.log_metrics({name: value for name, value in named.items() if math.isfinite(value)})
    mlflow.set_tag("vitrine.protocol", measurement.protocol)
    mlflow.log_artifacts(str(pictures_dir), artifact_path="evaluation")
    # Under stable keys, so that the page can show those of several runs side by side.
    for path in sorted(pictures_dir.glob("*.png")):
        with Image.open(path) as picture:
            mlflow.log_image(picture, key=f"evaluation/{path.stem}", step=0)


def main(argv: Sequence[str] | None = None) -> None:
    parser = stage_parser(__doc__)
    parser.add_argument("--model", required=True, help="model family")
    parser.add_argument("--prepared", type=Path, required=True, help="folder that `prepare` made")
    parser.add_argument("--weights", type=Path, required=True, help="folder that `train` made")
    parser.add_argument("--run", type=Path, required=True, help="run.json that `train` wrote")
    parser.add_argument("--out", type=Path, required=True, help="evaluation.json to write: values alone")
    parser.add_argument("--measurement", type=Path, required=True, help="measurement.json to write: all that is known")
    parser.add_argument("--pictures", type=Path, required=True, help="folder for the pictures")
    args = parser.parse_args(argv)
    keep_freed_memory()
    with explained_errors():
        settings = load_settings(args.params).evaluate
        with resumed_run(args.run):
            measurement = evaluate(settings, args.prepared, args.weights, args.model, args.pictures)
            write_measurement(args.measurement, measurement)
            write_json(args.out, summary(measurement))
            log_measurement(measurement, args.pictures)
        print(f"{args.model}: measured with {measurement.protocol}", flush=True)
        for name, found in measurement.metrics.items():
            print(f"{args.model}: {name} = {_told(name, found)}", flush=True)


def _told(name: str, found: Estimate) -> str:
    if found.interval is None:
        return f"{found.value:.6g}"
    low, high = possible(name, found.interval)
    floor = "" if found.floor is None else f", real photos {found.floor:.4g}"
    return f"{found.value:.6g} ({low:.4g} to {high:.4g}{floor})"


if __name__ == "__main__":
    main()
