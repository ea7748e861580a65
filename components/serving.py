"""The packaged model: conditions in, PNG bytes out. MLflow runs this file when it loads a version.

Models-from-code (`mlflow.models.set_model`): what is stored is this source, the weights as
safetensors and a JSON card; nothing is pickled.
"""

import io
import os
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.models import set_model

from components.generative import load_card, load_model
from components.images import picture, to_uint8

MAX_IMAGES = 1024
"""Images that one row may ask for: a slip of the finger must not fill the memory."""


class ProductImages(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """A pyfunc model over any family."""

    def load_context(self, context: Any) -> None:
        folder = Path(context.artifacts["model"])
        check_signature(folder.parents[1])
        self.attributes = load_card(folder).attributes
        self.model = load_model(folder).to("cuda" if torch.cuda.is_available() else "cpu")

    # Without hints on its arguments: MLflow would take them for a schema, and the signature is that.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Generates images.

        Args:
            model_input: DataFrame with a column per attribute (`category`; none of an unconditional
                model), and `n` (images, 1 to 1024) and `seed`. The same row gives the same bytes.

        Returns:
            DataFrame with a row per image: the attributes, seed, index (0 to n - 1), png (bytes).

        Raises:
            ValueError: a value is unknown or out of range; the message lists what is allowed.
        """
        rows = [image for row in model_input.to_dict("records") for image in self._images(row)]
        return pd.DataFrame(rows, columns=[*self.attributes, "seed", "index", "png"])

    def _images(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        count, seed = int(row["n"]), int(row["seed"])
        if not 1 <= count <= MAX_IMAGES:
            raise ValueError(f"n is {count}; allowed are 1 to {MAX_IMAGES}")
        conditions_NA = torch.tensor([self._indices(row)], dtype=torch.int64).expand(count, -1)
        images = to_uint8(self.model.sample(conditions_NA, torch.Generator().manual_seed(seed)))
        named = {name: row[name] for name in self.attributes}
        return [{**named, "seed": seed, "index": index, "png": _png(image)} for index, image in enumerate(images)]

    def _indices(self, row: dict[str, Any]) -> list[int]:
        for name, values in self.attributes.items():
            if row[name] not in values:
                raise ValueError(f"{name} is {row[name]!r}; this model knows {list(values)}")
        return [values.index(row[name]) for name, values in self.attributes.items()]


def check_signature(package: Path) -> None:
    """Refuses a package that is not signed by the key that VITRINE_REQUIRE_SIGNATURE names, if it names one.

    It runs before the weights are read, but is itself of the package: altered code can leave it out.
    `components.production` checks from outside, before any of the code runs.

    Raises:
        InputError: see `components.signing.verify`.
    """
    if not os.environ.get("VITRINE_REQUIRE_SIGNATURE"):
        return
    # Imported here, or every served model would wait for cryptography that few ask for.
    from components.signing import required_key, verify

    key = required_key()
    assert key is not None
    verify(package, key, running=True)


def _png(image_CHW: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    picture(image_CHW).save(buffer, format="PNG")
    return buffer.getvalue()


set_model(ProductImages())
