import torch
from torch.nn.functional import dropout

from components.training.draws import Draws, seed_layers, whole_batch


def test_layers_draw_what_they_draw_after_torchs_own_seed() -> None:
    torch.manual_seed(7)
    expected = dropout(torch.ones(100))
    torch.manual_seed(8)
    seed_layers(7, torch.device("cpu"))
    assert torch.equal(dropout(torch.ones(100)), expected)


def test_rows_get_the_same_numbers_however_a_batch_is_divided() -> None:
    whole = whole_batch(3, 10)
    part = Draws(3, 4, 9, 10, torch.device("cpu"))
    assert torch.equal(part.normal("latents", 2, 3), whole.normal("latents", 2, 3)[4:9])
    assert torch.equal(part.uniform("shift"), whole.uniform("shift")[4:9])


def test_streams_and_seeds_have_numbers_of_their_own() -> None:
    draws = whole_batch(3, 10)
    assert torch.equal(draws.normal("one", 2), draws.normal("one", 2))
    assert not torch.equal(draws.normal("one", 2), draws.normal("two", 2))
    assert not torch.equal(draws.normal("one", 2), whole_batch(4, 10).normal("one", 2))
