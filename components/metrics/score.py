"""The Inception Score's idea on any classifier's logits."""

from torch import Tensor

from components.measurement import Estimate
from components.metrics.groups import UNKNOWN, counts_without_each, group_sums, totals, with_replicates


def classifier_score(logits_NK: Tensor, groups_N: Tensor) -> Estimate:
    """exp of the mean KL divergence of the images' class distributions from their mean, over all images at once.

    Salimans et al., 2016, arXiv:1606.03498, who take the mean over ten parts; the parts' smaller size
    lowers it (Barratt and Sharma, 2018, arXiv:1801.01973).

    Args:
        logits_NK: class logits of generated images, (N, K).
        groups_N: each image's group, (N,).

    Returns:
        1 to K; unknown if a logit is not finite.
    """
    if not logits_NK.isfinite().all():
        return UNKNOWN
    log_NK = logits_NK.double().log_softmax(dim=1)
    probabilities_NK = log_NK.exp()
    counts = counts_without_each(groups_N)
    negative_entropy = totals(group_sums((probabilities_NK * log_NK).sum(dim=1), groups_N)) / counts
    mean = totals(group_sums(probabilities_NK, groups_N)) / counts[:, None]
    # xlogy: a class that no image has adds nothing, where the logarithm alone would be infinite. Rounding
    # may leave a mean a little below zero where all of its images are left out.
    mean = mean.clamp_min(0)
    return with_replicates((negative_entropy - mean.xlogy(mean).sum(dim=1)).exp())
