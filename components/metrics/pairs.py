"""Metrics of the inner products and distances between all pairs of images, with their replicates.

Every pair is looked at once: sums and counts are kept per group, from which the value over all images and
that without each group follow. Inner products are float32, of features less the mean of the real ones; sums float64.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from components.measurement import GROUPS
from components.metrics.groups import counts_without_each, group_sums

ROWS_AT_ONCE = 250
SPARE_NEIGHBOURS = 6
"""Nearest neighbours kept beyond k: enough for almost every image, whichever group is left out."""


@dataclass(frozen=True)
class Cloud:
    """The images of one kind.

    Attributes:
        points_ND: features less the origin, float32.
        squares_N: their squared lengths.
        offsets_N: what two images' offsets add to their product / D, for that of the features themselves.
        groups_N: int64, 0 to GROUPS - 1.
    """

    points_ND: Tensor
    squares_N: Tensor
    offsets_N: Tensor
    groups_N: Tensor

    @classmethod
    def of(cls, features_ND: Tensor, groups_N: Tensor, origin: Tensor) -> "Cloud":
        """Args:
        features_ND: (N, D).
        groups_N: (N,).
        origin: float64; the same for all clouds that are compared.
        """
        points_ND = features_ND.double() - origin
        offsets_N = (points_ND @ origin + origin @ origin / 2) / len(origin)
        return cls(points_ND.float(), points_ND.square().sum(dim=1).float(), offsets_N.float(), groups_N)

    def of_rows(self, rows: Tensor) -> "Cloud":
        """Some of its images, (M,) row numbers."""
        return Cloud(self.points_ND[rows], self.squares_N[rows], self.offsets_N[rows], self.groups_N[rows])

    @property
    def counts(self) -> Tensor:
        """Number of images, over all and without each group, float64 (GROUPS + 1,)."""
        return counts_without_each(self.groups_N)


@dataclass(frozen=True)
class Within:
    """What a cloud's images are to each other.

    Attributes:
        kernel: mean kernel of two different images, over all and without each group, float64 (GROUPS + 1,).
        radii_NG: squared distance of each image's k-th nearest other one, likewise, float32 (N, GROUPS + 1).
    """

    kernel: Tensor
    radii_NG: Tensor


@dataclass(frozen=True)
class Between:
    """How generated images lie to real ones; each over all and without each group, float64 (GROUPS + 1,)."""

    kernel: Tensor
    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def within(cloud: Cloud, neighbours: int) -> Within:
    """Compares a cloud's images to each other; takes 4 N^2 bytes of memory.

    Args:
        cloud: more than k images without any one group.
        neighbours: k.
    """
    gram_NN = _own_gram(cloud.points_ND)
    sums_NG, radii = [], []
    for rows in _blocks(len(gram_NN)):
        place = torch.arange(len(gram_NN))[rows]
        kernel = _kernel(cloud, cloud, rows, gram_NN[rows])
        kernel[torch.arange(len(place)), place] = 0
        sums_NG.append(_column_sums(kernel, cloud.groups_N))
        distances = _squared_distances(cloud, cloud, rows, gram_NN[rows])
        distances[torch.arange(len(place)), place] = torch.inf
        radii.append(_radii(distances, cloud.groups_N, neighbours))
    total = _without_each(group_sums(torch.cat(sums_NG), cloud.groups_N))
    return Within(total / (cloud.counts * (cloud.counts - 1)), torch.cat(radii))


def between(real: Cloud, within_real: Within, fake: Cloud, within_fake: Within, neighbours: int) -> Between:
    """Compares generated images with real ones.

    Precision and recall: Kynkäänniemi et al., 2019, arXiv:1904.06991. Density and coverage: Naeem et al., 2020,
    arXiv:2002.09797. An image's ball reaches to its k-th nearest neighbour of its own kind.
    """
    sums_NG = []
    covered_NG, reached_NG = _no_hits(real), _no_hits(real)
    inside = _no_hits(fake)
    for rows in _blocks(len(real.points_ND)):
        gram = real.points_ND[rows] @ fake.points_ND.T
        sums_NG.append(_column_sums(_kernel(real, fake, rows, gram), fake.groups_N))
        distances = _squared_distances(real, fake, rows, gram)
        groups = real.groups_N[rows]
        hit_n, hit_m, hits = _in_balls(distances, within_real.radii_NG[rows], groups, fake.groups_N)
        covered_NG[rows].index_add_(0, hit_n, hits)
        inside.index_add_(0, hit_m, hits)
        _, hit_n, hits = _in_balls(distances.T, within_fake.radii_NG, fake.groups_N, groups)
        reached_NG[rows].index_add_(0, hit_n, hits)
    kernel = _without_each(group_sums(torch.cat(sums_NG), real.groups_N)) / (real.counts * fake.counts)
    return Between(
        kernel=kernel,
        precision=(inside > 0).sum(dim=0) / fake.counts,
        recall=(reached_NG > 0).sum(dim=0) / real.counts,
        density=inside.sum(dim=0) / (neighbours * fake.counts),
        coverage=(covered_NG > 0).sum(dim=0) / real.counts,
    )


def kernel_distance(within_real: Within, within_fake: Within, found: Between) -> Tensor:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, unbiased: it can be negative.

    Bińkowski et al., 2018, arXiv:1801.01401; there the mean over random subsets, here over all images at once.

    Returns:
        Over all and without each group, float64 (GROUPS + 1,).
    """
    return within_real.kernel + within_fake.kernel - 2 * found.kernel


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def _own_gram(points_ND: Tensor) -> Tensor:
    """All inner products; each pair is multiplied once."""
    gram_NN = torch.empty(len(points_ND), len(points_ND))
    for rows in _blocks(len(points_ND)):
        gram_NN[rows, rows.start :] = points_ND[rows] @ points_ND[rows.start :].T
        gram_NN[rows.stop :, rows] = gram_NN[rows, rows.stop :].T
    return gram_NN


def _kernel(first: Cloud, second: Cloud, rows: slice, gram: Tensor) -> Tensor:
    """(x.y / D + 1)^3 for some of the first cloud's rows."""
    base = gram / first.points_ND.shape[1]
    base += first.offsets_N[rows, None] + 1
    base += second.offsets_N
    return base * base * base


def _squared_distances(first: Cloud, second: Cloud, rows: slice, gram: Tensor) -> Tensor:
    distances = gram * -2
    distances += first.squares_N[rows, None]
    distances += second.squares_N
    return distances


def _column_sums(values: Tensor, groups: Tensor) -> Tensor:
    """Each row's sum over the columns of each group, float64 (n, GROUPS)."""
    return values.double() @ torch.nn.functional.one_hot(groups, GROUPS).double()


def _without_each(sums: Tensor) -> Tensor:
    """The sum over all pairs of groups, and that without each group on either side, (GROUPS + 1,)."""
    total = sums.sum()
    return torch.cat([total[None], total - sums.sum(dim=0) - sums.sum(dim=1) + sums.diagonal()])


def _radii(distances: Tensor, groups_N: Tensor, neighbours: int) -> Tensor:
    """Squared distance to the k-th nearest one, over all and without each group, (n, GROUPS + 1)."""
    kept = min(neighbours + SPARE_NEIGHBOURS, distances.shape[1])
    nearest, columns = distances.topk(kept, largest=False)
    stays = groups_N[columns][:, :, None] != torch.arange(GROUPS)
    rank = stays.cumsum(dim=1)
    # The first place at which k of those that stay have been met.
    radii = nearest.gather(1, (rank >= neighbours).int().argmax(dim=1))
    for row, group in (rank[:, -1] < neighbours).nonzero().tolist():
        others = distances[row][groups_N != group]
        radii[row, group] = others.kthvalue(neighbours).values
    return torch.cat([nearest[:, neighbours - 1, None], radii], dim=1)


def _no_hits(cloud: Cloud) -> Tensor:
    return torch.zeros(len(cloud.points_ND), GROUPS + 1, dtype=torch.int32)


def _in_balls(
    distances: Tensor, radii: Tensor, ball_groups: Tensor, point_groups: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs of a ball (row) and a point (column) that lies in it over all or without some group.

    Returns:
        Row and column of each pair, and where it counts: over all, without each group, int32 (P, GROUPS + 1).
    """
    row, column = (distances <= radii.amax(dim=1, keepdim=True)).nonzero(as_tuple=True)
    hits = (distances[row, column, None] <= radii[row]).int()
    for left_out in (ball_groups[row], point_groups[column]):
        hits.scatter_(1, left_out[:, None] + 1, 0)
    return row, column, hits
