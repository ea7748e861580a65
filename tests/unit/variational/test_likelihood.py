import pytest
import torch
from torch.distributions import Normal, kl_divergence

from components.variational.likelihood import (
    active_units,
    gaussian_kl,
    optimal_sigma_nll,
    reparametrised,
    warmed_up,
)


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
    nll, found = optimal_sigma_nll(images, reconstructions)
    torch.testing.assert_close(nll, expected)
    torch.testing.assert_close(found, sigma)


def test_the_variance_is_what_numeric_optimisation_finds() -> None:
    torch.manual_seed(0)
    images, reconstructions = torch.randn(5, 3, 4, 4, dtype=torch.float64), torch.randn(5, 3, 4, 4).double()
    log_sigma = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_sigma], max_iter=100, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = -Normal(reconstructions, log_sigma.exp()).log_prob(images).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    nll, sigma = optimal_sigma_nll(images, reconstructions)
    torch.testing.assert_close(sigma, log_sigma.detach().exp(), rtol=1e-6, atol=0)
    torch.testing.assert_close(nll.sum(), closure().detach(), rtol=1e-9, atol=0)


def test_a_constant_variance_gives_the_gradient_that_one_with_a_gradient_gives() -> None:
    torch.manual_seed(0)
    images = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    reconstructions = torch.randn(5, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(optimal_sigma_nll(images, reconstructions)[0].mean(), reconstructions)
    # The optimum put in: D / 2 log of the mean squared error, and constants.
    through = 16 / 2 * (images - reconstructions).square().mean().log()
    (expected,) = torch.autograd.grad(through, reconstructions)
    torch.testing.assert_close(found, expected)


def test_with_several_processes_the_variance_is_that_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other process's mean squared error stands in for its part of the sum; the rest is the real thing."""
    torch.manual_seed(0)
    images, reconstructions = torch.randn(2, 4, 1, 4, 4), torch.randn(2, 4, 1, 4, 4)
    whole, whole_sigma = optimal_sigma_nll(images.flatten(0, 1), reconstructions.flatten(0, 1))
    others = (images[1] - reconstructions[1]).square().mean()
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda value: value.add_(others))
    nll, sigma = optimal_sigma_nll(images[0], reconstructions[0])
    torch.testing.assert_close(sigma, whole_sigma)
    torch.testing.assert_close(nll, whole[:4])


def test_perfect_reconstructions_have_a_finite_likelihood() -> None:
    images = torch.ones(2, 1, 4, 4)
    nll, _ = optimal_sigma_nll(images, images)
    assert nll.isfinite().all()


def test_draws_have_the_posteriors_mean_and_deviation() -> None:
    torch.manual_seed(0)
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    drawn = reparametrised(mean, log_variance, torch.randn(200_000, 2))
    torch.testing.assert_close(drawn.mean(dim=0), mean[0], rtol=0, atol=0.03)
    torch.testing.assert_close(drawn.var(dim=0), log_variance[0].exp(), rtol=0.02, atol=0)


@pytest.mark.parametrize(("seen", "expected"), [(0, 0.0), (25, 0.5), (50, 1.0), (100, 2.0), (1000, 2.0)])
def test_beta_rises_evenly_and_stays(seen: int, expected: float) -> None:
    assert warmed_up(2.0, 100, seen) == expected


def test_without_warm_up_beta_is_there_from_the_first_step() -> None:
    assert warmed_up(2.0, 0, 1) == 2.0


def test_active_units_are_those_whose_mean_varies_over_the_batch() -> None:
    torch.manual_seed(0)
    deviations = torch.tensor([0.0, 0.05, 0.2, 3.0])
    mean = torch.nn.functional.normalize(torch.randn(1000, 4), dim=0) * 1000**0.5
    # Off the origin: what counts is that it varies.
    mean = (mean - mean.mean(dim=0)) * deviations + 5
    torch.testing.assert_close(active_units(mean), torch.tensor(2.0))
