"""DINOv2 as a feature network, from a folder in the Hugging Face format."""

import hashlib
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, layer_norm, linear, scaled_dot_product_attention

from components.errors import InputError
from components.features import FeatureExtractor, Seen
from components.files import sha256_file
from components.images import to_rgb

CONFIG, WEIGHTS = "config.json", "model.safetensors"
RESOLUTION = 224
"""Side of the images that the models are used with, pixels."""
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's colours, which are told in 0 to 1."""


class Dinov2Config(BaseModel):
    """What config.json says of a model's shape."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    patch_size: int
    layer_norm_eps: float = 1e-6
    hidden_act: Literal["gelu"] = "gelu"
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 0


class Dinov2(FeatureExtractor):
    """A vision transformer trained without labels (Oquab et al., 2023, arXiv:2304.07193).

    Features are the class token after the last normalisation; there are no classes. The patches'
    tokens after half of the layers and after all are the stages.

    Args:
        folder: with config.json and model.safetensors.

    Raises:
        InputError: a file is missing or damaged, or the model is of another kind.
    """

    name = "dinov2"
    resolution = RESOLUTION
    resize = "bicubic-antialias"
    mean_C11: Tensor
    deviation_C11: Tensor

    def __init__(self, folder: str) -> None:
        super().__init__()
        config_path, weights_path = Path(folder, CONFIG), Path(folder, WEIGHTS)
        for path in (config_path, weights_path):
            if not path.is_file():
                raise InputError(f"{path}: not found; evaluate.weights in params.yaml must name a folder that holds it")
        try:
            self.config = Dinov2Config.model_validate_json(config_path.read_bytes())
            weights = load_file(weights_path)
        except (ValidationError, SafetensorError) as error:
            raise InputError(f"{folder}: no DINOv2 model in the Hugging Face format: {error}") from None
        if self.config.use_swiglu_ffn or self.config.num_register_tokens:
            raise InputError(
                f"{config_path}: models with SwiGLU or register tokens are not supported; take a smaller one"
            )
        both = sha256_file(config_path) + sha256_file(weights_path)
        self.num_features, self.weights_sha256 = self.config.hidden_size, hashlib.sha256(both.encode()).hexdigest()
        for name, values in (("mean_C11", MEAN), ("deviation_C11", DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])
        self.weights = nn.ParameterDict({_plain(name): nn.Parameter(value.float()) for name, value in weights.items()})
        self.eval().requires_grad_(False)
        try:
            self.see(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
        except (AttributeError, KeyError, RuntimeError) as error:
            raise InputError(f"{weights_path}: does not hold what {CONFIG} says: {error!r}") from None

    def compute(self, images_NCHW: Tensor) -> Seen:
        size = (RESOLUTION, RESOLUTION)
        resized = interpolate(images_NCHW.float(), size, mode="bicubic", antialias=True, align_corners=False)
        # A bicubic filter overshoots; as 8-bit images, the resized ones would be clipped.
        inputs = (to_rgb(resized.clamp(0, 255)) / 255 - self.mean_C11) / self.deviation_C11
        tokens_NTD, stages = self._embedded(inputs), []
        layers = self.config.num_hidden_layers
        for number in range(layers):
            tokens_NTD = self._layer(tokens_NTD, f"encoder_layer_{number}_")
            if number + 1 in (max(1, layers // 2), layers):
                stages.append(tokens_NTD[:, 1:].transpose(1, 2)[..., None])
        features_ND = self._normalised(tokens_NTD, "layernorm")[:, 0]
        return Seen(features_ND, features_ND[:, :0], tuple(stages))

    def _embedded(self, inputs_NCHW: Tensor) -> Tensor:
        """Class token and patches, with their positions."""
        size = self.config.patch_size
        kernel, bias = (self.weights[f"embeddings_patch_embeddings_projection_{part}"] for part in ("weight", "bias"))
        maps = nn.functional.conv2d(inputs_NCHW, kernel, bias, stride=size)
        first = self.weights["embeddings_cls_token"].expand(len(maps), -1, -1)
        tokens_NTD = torch.cat([first, maps.flatten(2).transpose(1, 2)], dim=1)
        places = self.weights["embeddings_position_embeddings"]
        side = round((places.shape[1] - 1) ** 0.5)
        # The positions of the training's resolution, drawn to this one's.
        grid = places[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        grid = interpolate(grid, maps.shape[-2:], mode="bicubic", align_corners=False)
        return tokens_NTD + torch.cat([places[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def _layer(self, tokens_NTD: Tensor, name: str) -> Tensor:
        attended = self._attended(self._normalised(tokens_NTD, f"{name}norm1"), f"{name}attention_")
        tokens_NTD = tokens_NTD + attended * self.weights[f"{name}layer_scale1_lambda1"]
        hidden = gelu(self._linear(self._normalised(tokens_NTD, f"{name}norm2"), f"{name}mlp_fc1"))
        mapped = self._linear(hidden, f"{name}mlp_fc2")
        added: Tensor = tokens_NTD + mapped * self.weights[f"{name}layer_scale2_lambda1"]
        return added

    def _attended(self, tokens_NTD: Tensor, name: str) -> Tensor:
        heads = self.config.num_attention_heads
        query, key, value = (
            self._linear(tokens_NTD, f"{name}attention_{part}").unflatten(2, (heads, -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return self._linear(attended, f"{name}output_dense")

    def _normalised(self, tokens_NTD: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}_weight"], self.weights[f"{name}_bias"]
        return layer_norm(tokens_NTD, (self.num_features,), weight, bias, self.config.layer_norm_eps)

    def _linear(self, tokens_NTD: Tensor, name: str) -> Tensor:
        mapped: Tensor = linear(tokens_NTD, self.weights[f"{name}_weight"], self.weights[f"{name}_bias"])
        return mapped


def _plain(name: str) -> str:
    """A parameter's name without dots, which a ParameterDict does not take."""
    return name.removeprefix("dinov2.").replace(".", "_")
