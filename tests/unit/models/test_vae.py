import torch
from torch.distributions import Normal, kl_divergence

from components.models.vae import gaussian_kl, optimal_sigma_nll


def test_kl_is_that_of_torch_distributions() -> None:
    torch.manual_seed(0)
    mean, log_variance, prior_mean, prior_log_variance = torch.randn(4, 6, 5)
    posterior = Normal(mean, (0.5 * log_variance).exp())
    prior = Normal(prior_mean, (0.5 * prior_log_variance).exp())
    expected = kl_divergence(posterior, prior).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance, prior_mean, prior_log_variance), expected)


def test_likelihood_is_that_of_a_gaussian_with_the_mean_squared_error_as_variance() -> None:
    torch.manual_seed(0)
    images, reconstructions = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    sigma = (images - reconstructions).square().mean().sqrt()
    expected = -Normal(reconstructions, sigma).log_prob(images).sum(dim=(1, 2, 3))
    torch.testing.assert_close(optimal_sigma_nll(images, reconstructions), expected)


def test_no_other_variance_is_likelier() -> None:
    torch.manual_seed(0)
    images, reconstructions = torch.randn(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    best = optimal_sigma_nll(images, reconstructions).sum()
    sigma = (images - reconstructions).square().mean().sqrt()
    for factor in (0.8, 0.95, 1.05, 1.25):
        other = -Normal(reconstructions, sigma * factor).log_prob(images).sum()
        assert best < other
