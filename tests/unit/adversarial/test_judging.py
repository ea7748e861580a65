from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.adversarial.judging import Judgement, judge
from components.adversarial.penalties import Due, PenaltyName
from components.training.draws import whole_batch


class Scaled(nn.Module):
    """(w . x) * (1 + condition): the gradient's norm is the condition's, and no image's depends on another's."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0)))
        self.calls: list[int] = []

    def forward(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
        self.calls.append(len(images_NCHW))
        return (images_NCHW * self.weight).sum(dim=(1, 2, 3)) * (1 + conditions_NA[:, 0])


REALS = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
FAKES = -torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(2))
CONDITIONS = torch.tensor([[0], [1], [2], [0], [1], [2]])


def judged(network: nn.Module, due: dict[PenaltyName, Due], rows: int = 6) -> Judgement:
    return judge(network, REALS[:rows], FAKES[:rows], CONDITIONS[:rows], due, whole_batch(3, rows))


ALL_WAYS: list[dict[PenaltyName, Due]] = [
    {},
    {"r1": Due(1.0, exact=True)},
    {"r2": Due(1.0, exact=True)},
    {"r1": Due(1.0, exact=True), "r2": Due(1.0, exact=True)},
    {"r1": Due(1.0, exact=False), "r2": Due(1.0, exact=True)},
    {"r1": Due(1.0, exact=False), "r2": Due(1.0, exact=False), "gradient_penalty": Due(1.0, exact=False)},
    {"gradient_penalty": Due(1.0, exact=True)},
]


@pytest.mark.parametrize("due", ALL_WAYS)
def test_logits_are_those_of_the_network_whatever_is_due(due: dict[PenaltyName, Due]) -> None:
    network = Scaled()
    found = judged(network, due)
    torch.testing.assert_close(found.logits_real_N, network(REALS, CONDITIONS))
    torch.testing.assert_close(found.logits_fake_N, network(FAKES, CONDITIONS))
    assert list(found.penalties) == list(due)


@pytest.mark.parametrize("due", ALL_WAYS)
def test_penalties_are_means_of_the_known_gradient(due: dict[PenaltyName, Due]) -> None:
    network = Scaled()
    norms = network.weight.norm() * torch.tensor([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])
    expected = {
        "r1": norms.square().mean(),
        "r2": norms.square().mean(),
        "gradient_penalty": (norms - 1).square().mean(),
    }
    found = judged(network, due)
    for name, value in found.penalties.items():
        if due[name].exact:
            torch.testing.assert_close(value, expected[name])
        else:  # one direction per image
            assert value.isfinite()
            assert value != expected[name]


def test_the_weighted_sum_is_what_the_objective_gets() -> None:
    due: dict[PenaltyName, Due] = {"r1": Due(0.5, exact=True), "gradient_penalty": Due(10.0, exact=True)}
    found = judged(Scaled(), due)
    torch.testing.assert_close(found.weighted, 0.5 * found.penalties["r1"] + 10 * found.penalties["gradient_penalty"])
    assert judged(Scaled(), {}).weighted == 0


def test_an_estimate_is_right_in_the_mean_of_many_images() -> None:
    network, count = Scaled(), 20_000
    reals, conditions = REALS[:1].expand(count, -1, -1, -1), torch.ones(count, 1, dtype=torch.int64)
    due: dict[PenaltyName, Due] = {"r1": Due(1.0, exact=False)}
    found = judge(network, reals, reals, conditions, due, whole_batch(0, count))
    torch.testing.assert_close(found.penalties["r1"], (2 * network.weight.norm()).square(), rtol=0.04, atol=0)


def test_r1_and_r2_have_directions_of_their_own() -> None:
    due: dict[PenaltyName, Due] = {"r1": Due(1.0, exact=False), "r2": Due(1.0, exact=False)}
    found = judged(Scaled(), due)
    assert not torch.isclose(found.penalties["r1"], found.penalties["r2"], rtol=1e-3)


def test_without_penalties_there_is_one_pass_and_only_what_needs_gradients_gets_some() -> None:
    network = Scaled()
    judged(network, {})
    judged(network, {"r1": Due(1.0, exact=True)})
    assert network.calls == [12, 6, 6]


def test_no_gradient_reaches_the_images() -> None:
    reals, fakes = REALS.clone().requires_grad_(), FAKES.clone().requires_grad_()
    network = Scaled()
    found = judge(network, reals, fakes, CONDITIONS, {"r1": Due(1.0, exact=True)}, whole_batch(3, 6))
    (found.weighted + found.logits_fake_N.sum()).backward()
    assert reals.grad is None
    assert fakes.grad is None
    assert network.weight.grad is not None


def test_exact_penalties_pass_a_compiled_call_by(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Scaled()

    def compiled(*_: Any) -> Tensor:
        raise AssertionError("a compiled network has no second derivatives")

    monkeypatch.setattr(network, "_compiled_call_impl", compiled)
    judged(network, {"r1": Due(1.0, exact=True), "r2": Due(1.0, exact=True)})
    with pytest.raises(AssertionError, match="second derivatives"):
        judged(network, {"r1": Due(1.0, exact=False)})


def test_without_conditions() -> None:
    class Plain(nn.Module):
        def forward(self, images_NCHW: Tensor, conditions_NA: Tensor) -> Tensor:
            assert conditions_NA.shape == (len(images_NCHW), 0)
            return images_NCHW.sum(dim=(1, 2, 3))

    none = torch.empty(6, 0, dtype=torch.int64)
    due: dict[PenaltyName, Due] = {"r1": Due(1.0, exact=True), "r2": Due(1.0, exact=False)}
    found = judge(Plain(), REALS, FAKES, none, due, whole_batch(3, 6))
    torch.testing.assert_close(found.penalties["r1"], torch.tensor(16.0))
