"""Other projects' generative models on the same images: how fast they train, and what they draw after a while.

Run by a Python of its own, since they want other versions than this project:

    python3.11 -m venv PEERS
    PEERS/bin/pip install torch==2.13.0
    PEERS/bin/pip install --no-deps -r tests/benchmarks/peers.txt
    PEERS/bin/python tests/benchmarks/peers.py sngan --images IMAGES.npy --seconds 600 --samples SAMPLES.npy

IMAGES.npy: uint8 (N, 1, 32, 32). The last line it prints is JSON: images, seconds, rate, parameters, mflop (of
a training step, per image). The peers, each with its own networks, on batches that lie in memory:

- dcgan: Radford et al., 2015, arXiv:1511.06434, as in PyTorch's tutorial (64 filters, cross-entropy, Adam
  2e-4, beta1 0.5, batches of 128), without its stage for 64 pixels.
- sngan: torch-mimicry 0.1.16, Lee and Town, 2020, arXiv:2005.02494: residual networks with spectral norm
  (Miyato et al., 2018, arXiv:1802.05957), hinge loss, Adam 2e-4 (0, 0.9), batches of 64, five updates of the
  discriminator to one of the generator, learning rate falling linearly to 0; one channel instead of three.
- pythae-vae, pythae-rae: pythae 0.1.2, Chadebec et al., 2022, arXiv:2206.08309: VAE, and RAE-L2 with a Gaussian
  mixture (Ghosh et al., 2019, arXiv:1903.12436), on its networks for MNIST, 16 latents, batches of 100. These
  want 28 pixels: the margin of 2 that `prepare` has added is cut off, and painted black again on what they draw.
  Adam at 1e-3, since at pythae's 1e-4 minutes are too few.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad
from torch.utils.flop_counter import FlopCounterMode

MARGIN = 2
MIXTURE_IMAGES = 20_000
CHUNK = 100


@dataclass(frozen=True)
class Peer:
    """A model in training.

    Attributes:
        batch: images in a step.
        networks: all that is trained.
        step: does one with images (N, 1, 32, 32) in [-1, 1] and the share of the time that is over.
        finish: what follows the training, with all images; it does not count as training time.
        draw: n images, (n, 1, 32, 32) in [-1, 1].
    """

    batch: int
    networks: list[nn.Module]
    step: Callable[[Tensor, float], None]
    finish: Callable[[Tensor], None]
    draw: Callable[[int], Tensor]


def dcgan(width: int) -> Peer:
    """The tutorial's; at 32 pixels, with one stage less at the small end."""

    def up(before: int, after: int, stride: int, padding: int) -> list[nn.Module]:
        convolution = nn.ConvTranspose2d(before, after, 4, stride, padding, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True)]

    def down(before: int, after: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 4, 2, 1, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]

    generator = nn.Sequential(
        *up(100, 4 * width, 1, 0),
        *up(4 * width, 2 * width, 2, 1),
        *up(2 * width, width, 2, 1),
        nn.ConvTranspose2d(width, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    ).apply(_tutorials_weights)
    first = [nn.Conv2d(1, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    discriminator = nn.Sequential(
        *first, *down(width, 2 * width), *down(2 * width, 4 * width), nn.Conv2d(4 * width, 1, 4, bias=False)
    ).apply(_tutorials_weights)
    of_generator, of_discriminator = (
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)) for network in (generator, discriminator)
    )

    def loss(images: Tensor, label: float) -> Tensor:
        logits = discriminator(images).flatten()
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    def step(reals: Tensor, _: float) -> None:
        fakes = generator(torch.randn(len(reals), 100, 1, 1))
        discriminator.zero_grad()
        (loss(reals, 1.0) + loss(fakes.detach(), 0.0)).backward()
        of_discriminator.step()
        generator.zero_grad()
        loss(fakes, 1.0).backward()
        of_generator.step()

    # In training mode, as the tutorial draws.
    return Peer(128, [generator, discriminator], step, _nothing, lambda n: generator(torch.randn(n, 100, 1, 1)))


def _tutorials_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def sngan(width: int) -> Peer:
    """Torch-mimicry's, by its own training steps; its default widths are 256 and 128."""
    _stand_in_for_what_mimicry_imports()
    from torch_mimicry.modules.resblocks import DBlockOptimized
    from torch_mimicry.nets.sngan.sngan_32 import SNGANDiscriminator32, SNGANGenerator32
    from torch_mimicry.training.metric_log import MetricLog

    generator = SNGANGenerator32(ngf=width)
    generator.c5 = nn.Conv2d(width, 1, 3, 1, padding=1)
    nn.init.xavier_uniform_(generator.c5.weight, 1.0)
    discriminator = SNGANDiscriminator32(ndf=width if width < 256 else 128)
    discriminator.block1 = DBlockOptimized(1, discriminator.ndf)
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.0, 0.9)) for network in (generator, discriminator)
    ]
    of_generator, of_discriminator = optimizers
    cpu, log, steps = torch.device("cpu"), MetricLog(), iter(range(sys.maxsize))

    def step(reals: Tensor, share: float) -> None:
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 2e-4 * (1 - share)
        batch = (reals, None)
        discriminator.train_step(real_batch=batch, netG=generator, optD=of_discriminator, log_data=log, device=cpu)
        if next(steps) % 5 == 4:
            generator.train_step(real_batch=batch, netD=discriminator, optG=of_generator, log_data=log, device=cpu)

    def draw(count: int) -> Tensor:
        images: Tensor = generator.eval().generate_images(count)
        return images

    return Peer(64, [generator, discriminator], step, _nothing, draw)


def pythae(kind: str) -> Peer:
    """Pythae's model `vae` or `rae`, its loss minimised by Adam."""
    _declare_torchvisions_operators()
    from pythae.models import RAE_L2, VAE, RAE_L2_Config, VAEConfig
    from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_AE_MNIST, Encoder_Conv_VAE_MNIST
    from pythae.samplers import GaussianMixtureSampler, NormalSampler

    size: dict[str, Any] = {"input_dim": (1, 28, 28), "latent_dim": 16}
    if kind == "vae":
        config = VAEConfig(**size)
        model = VAE(config, encoder=Encoder_Conv_VAE_MNIST(config), decoder=Decoder_Conv_AE_MNIST(config))
        sampler = NormalSampler(model)
    else:
        config = RAE_L2_Config(**size)
        model = RAE_L2(config, encoder=Encoder_Conv_AE_MNIST(config), decoder=Decoder_Conv_AE_MNIST(config))
        sampler = GaussianMixtureSampler(model)
    # The regulariser of RAE-L2 is the decoder's weight decay.
    decay = 0.0 if kind == "vae" else config.reg_weight
    groups = [{"params": model.encoder.parameters()}, {"params": model.decoder.parameters(), "weight_decay": decay}]
    optimizer = torch.optim.Adam(groups, lr=1e-3)

    def step(images: Tensor, _: float) -> None:
        optimizer.zero_grad()
        model({"data": _small(images)}).loss.backward()
        optimizer.step()

    def finish(images: Tensor) -> None:
        model.eval()
        if kind == "rae":
            sampler.fit(_small(images[:MIXTURE_IMAGES]))

    def draw(count: int) -> Tensor:
        with torch.no_grad():
            images = sampler.sample(count, batch_size=count)
        return pad(2 * images - 1, [MARGIN] * 4, value=-1.0)

    return Peer(100, [model.encoder, model.decoder], step, finish, draw)


def _small(images: Tensor) -> Tensor:
    """(N, 1, 32, 32) in [-1, 1] to (N, 1, 28, 28) in [0, 1]."""
    return (images[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN] + 1) / 2


def _nothing(_: Tensor) -> None:
    """After the training there is nothing to be done."""


def _declare_torchvisions_operators() -> None:
    """Lets torchvision be imported without its compiled part, as with a torch that it was not built for.

    It describes the shapes of operators that nobody has declared then.
    """
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None or "torchvision" in sys.modules:
        return
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text(encoding="utf-8")
    library = torch.library.Library("torchvision", "DEF")
    _LIBRARIES.append(library)
    named = re.findall(r'register_meta\("(\w+)"|"torchvision::(\w+)"', source)
    for name in sorted({"".join(found) for found in named}):
        library.define(f"{name}(Tensor _) -> Tensor")


_LIBRARIES: list[Any] = []
"""A library's operators are gone when it is."""


def _stand_in_for_what_mimicry_imports() -> None:
    """TensorFlow and its board, for what is not used here, and a part of torch that no longer exists."""
    _declare_torchvisions_operators()
    contents: dict[str, dict[str, Any]] = {
        "torch._six": {"inf": float("inf"), "PY3": True},
        "torch.utils.tensorboard": {"SummaryWriter": None},
        "tensorflow": {},
        "tensorflow.compat": {},
        "tensorflow.compat.v1": {},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.__path__ = []
        vars(module).update(content)
        sys.modules[name] = module


PEERS: dict[str, Callable[[], Peer]] = {
    "dcgan": lambda: dcgan(64),
    "sngan": lambda: sngan(64),
    "sngan-default": lambda: sngan(256),
    "pythae-vae": lambda: pythae("vae"),
    "pythae-rae": lambda: pythae("rae"),
}


def batches(images: Tensor, size: int) -> Iterator[Tensor]:
    """Floats in [-1, 1], epoch after epoch without end."""
    while True:
        for rows in torch.randperm(len(images)).split(size):
            if len(rows) == size:
                yield images[rows].float() / 127.5 - 1


def train(peer: Peer, images: Tensor, seconds: float) -> dict[str, float]:
    """Trains for so long, a few steps before the clock starts."""
    source = batches(images, peer.batch)
    counter = FlopCounterMode(display=False)
    with counter:
        # Five, for some networks are updated in each fifth only.
        for _ in range(5):
            peer.step(next(source), 0.0)
    started = time.perf_counter()
    steps, passed = 0, 0.0
    while passed < seconds:
        peer.step(next(source), min(1.0, passed / seconds))
        steps, passed = steps + 1, time.perf_counter() - started
    return {
        "images": steps * peer.batch,
        "seconds": passed,
        "rate": steps * peer.batch / passed,
        "parameters": sum(p.numel() for network in peer.networks for p in network.parameters()),
        "mflop": counter.get_total_flops() / 5 / peer.batch / 1e6,
    }


@torch.no_grad()
def drawn(peer: Peer, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 (count, 1, 32, 32)."""
    chunks = [peer.draw(min(CHUNK, count - start)) for start in range(0, count, CHUNK)]
    return ((torch.cat(chunks) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("--images", type=Path, required=True, help="uint8 (N, 1, 32, 32)")
    parser.add_argument("--seconds", type=float, required=True, help="of training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--samples", type=Path, help="where to leave what it draws")
    parser.add_argument("--count", type=int, default=5000)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    np.random.seed(args.seed)  # scikit-learn's mixtures draw from it
    peer, images = PEERS[args.peer](), torch.from_numpy(np.load(args.images))
    report = train(peer, images, args.seconds)
    if args.samples is not None:
        peer.finish(images[:MIXTURE_IMAGES].float() / 127.5 - 1)
        np.save(args.samples, drawn(peer, args.count))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
