"""What every discriminator offers."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Discriminator(nn.Module, ABC):
    """Images (N, C, S, S) in [-1, 1] and conditions (N, A) to logits (N,): the higher, the more real."""

    def forward(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        return self.judge(self.features(images_NCHW), conditions_NA)

    @abstractmethod
    def features(self, images_NCHW: Tensor) -> list[Tensor]:
        """What the network sees in images: one map (N, C, h, w) per resolution, the finest first.

        They do not hang on the conditions, and may be compared between images (Larsen et al., 2016,
        arXiv:1512.09300).
        """

    @abstractmethod
    def judge(self, features: list[Tensor], conditions_NA: Tensor) -> Tensor:
        """Logits (N,) from what `features` gave, so that one pass serves both."""
