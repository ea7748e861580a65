import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate
from torch.testing import assert_close

from components.dinov2 import Dinov2
from components.errors import InputError
from components.features import build_extractor, extract
from components.settings import Settings

WIDTH, LAYERS, HEADS, PATCH = 24, 2, 3, 28
CONFIG = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "patch_size": PATCH,
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "mlp_ratio": 4,
}


def shapes(places: int = 64) -> dict[str, tuple[int, ...]]:
    named: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, WIDTH),
        "embeddings.position_embeddings": (1, 1 + places, WIDTH),
        "embeddings.patch_embeddings.projection.weight": (WIDTH, 3, PATCH, PATCH),
        "embeddings.patch_embeddings.projection.bias": (WIDTH,),
        "layernorm.weight": (WIDTH,),
        "layernorm.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        linears = {f"attention.attention.{part}": (WIDTH, WIDTH) for part in ("query", "key", "value")}
        linears |= {"attention.output.dense": (WIDTH, WIDTH), "mlp.fc1": (96, WIDTH), "mlp.fc2": (WIDTH, 96)}
        for part, shape in linears.items():
            named |= {f"{name}.{part}.weight": shape, f"{name}.{part}.bias": shape[:1]}
        for number in (1, 2):
            named |= {f"{name}.norm{number}.weight": (WIDTH,), f"{name}.norm{number}.bias": (WIDTH,)}
            named |= {f"{name}.layer_scale{number}.lambda1": (WIDTH,)}
    return named


def write_model(folder: Path, places: int = 64, **changes: object) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    weights = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes(places).items()}
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return weights


def images(count: int = 3, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, channels, 40, 40), dtype=torch.uint8, generator=generator)


def torch_layer(weights: dict[str, Tensor], name: str) -> nn.Module:
    """PyTorch's own layer with the same weights; the layer scale goes into the linear maps before it."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 96, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    parts = [f"{name}.attention.attention.{part}" for part in ("query", "key", "value")]
    first, second = (weights[f"{name}.layer_scale{number}.lambda1"] for number in (1, 2))
    dense, fc1, fc2 = (f"{name}.{part}" for part in ("attention.output.dense", "mlp.fc1", "mlp.fc2"))
    layer.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([weights[f"{part}.weight"] for part in parts]),
            "self_attn.in_proj_bias": torch.cat([weights[f"{part}.bias"] for part in parts]),
            "self_attn.out_proj.weight": weights[f"{dense}.weight"] * first[:, None],
            "self_attn.out_proj.bias": weights[f"{dense}.bias"] * first,
            "linear1.weight": weights[f"{fc1}.weight"],
            "linear1.bias": weights[f"{fc1}.bias"],
            "linear2.weight": weights[f"{fc2}.weight"] * second[:, None],
            "linear2.bias": weights[f"{fc2}.bias"] * second,
            **{f"norm{n}.{kind}": weights[f"{name}.norm{n}.{kind}"] for n in (1, 2) for kind in ("weight", "bias")},
        }
    )
    return layer


def test_equals_pytorchs_own_layers(tmp_path: Path, settings: Settings) -> None:
    weights = write_model(tmp_path)
    changed = settings.evaluate.model_copy(update={"extractor": "dinov2", "weights": str(tmp_path)})
    extractor = build_extractor(changed)
    features, logits = extractor(images())
    resized = interpolate(images().float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255) / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    kernel, bias = (weights[f"embeddings.patch_embeddings.projection.{part}"] for part in ("weight", "bias"))
    patches = conv2d((resized - mean) / deviation, kernel, bias, stride=PATCH).flatten(2).transpose(1, 2)
    tokens = torch.cat([weights["embeddings.cls_token"].expand(3, 1, WIDTH), patches], dim=1)
    tokens = tokens + weights["embeddings.position_embeddings"]
    for layer in range(LAYERS):
        tokens = torch_layer(weights, f"encoder.layer.{layer}")(tokens)
    expected = nn.functional.layer_norm(
        tokens[:, 0], (WIDTH,), weights["layernorm.weight"], weights["layernorm.bias"], 1e-6
    )
    assert_close(features, expected.detach(), rtol=1e-4, atol=1e-5)
    assert features.shape == (3, extractor.num_features)
    assert logits.shape == (3, 0)


def test_positions_of_another_resolution_are_drawn_to_this_one(tmp_path: Path) -> None:
    weights = write_model(tmp_path, places=25)
    extractor = Dinov2(str(tmp_path))
    same = write_model(tmp_path / "same")
    grid = weights["embeddings.position_embeddings"][:, 1:].reshape(1, 5, 5, WIDTH).permute(0, 3, 1, 2)
    grid = interpolate(grid, (8, 8), mode="bicubic").permute(0, 2, 3, 1).reshape(1, 64, WIDTH)
    same |= {name: value for name, value in weights.items() if "position" not in name}
    same["embeddings.position_embeddings"] = torch.cat([weights["embeddings.position_embeddings"][:, :1], grid], dim=1)
    save_file(same, tmp_path / "same" / "model.safetensors")
    assert_close(extractor(images())[0], Dinov2(str(tmp_path / "same"))(images())[0])


def test_grey_images_and_pairs(tmp_path: Path) -> None:
    write_model(tmp_path)
    extractor = Dinov2(str(tmp_path))
    grey = images(4, channels=1)
    assert_close(extractor(grey), extractor(grey.repeat(1, 3, 1, 1)))
    twice = extract(extractor, [grey[[0, 0, 1, 2]]], total=4, batch_size=2, label="x", pairs=True)
    assert float(twice.pair_distances[0]) < 1e-6 < float(twice.pair_distances[1])


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: not found; evaluate\.weights"):
        Dinov2(str(tmp_path))
    write_model(tmp_path, num_hidden_layers=3)
    with pytest.raises(InputError, match=r"model\.safetensors: does not hold what config\.json says"):
        Dinov2(str(tmp_path))
    write_model(tmp_path, use_swiglu_ffn=True)
    with pytest.raises(InputError, match="SwiGLU"):
        Dinov2(str(tmp_path))
    write_model(tmp_path, hidden_act="relu")
    with pytest.raises(InputError, match=r"no DINOv2 model.*\n?hidden_act"):
        Dinov2(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no DINOv2 model"):
        Dinov2(str(tmp_path))
    write_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match="no DINOv2 model"):
        Dinov2(str(tmp_path))
