import re
from dataclasses import replace

import pytest

from components.errors import InputError
from components.protocol import Protocol, assert_comparable

PROTOCOL = Protocol(
    features="efflite0",
    weights="5793" * 16,
    resolution=96,
    resize="bilinear-antialias",
    split="test",
    n_real=5000,
    n_fake=5000,
    seed=7,
    kid_subsets=50,
    kid_subset_size=500,
    neighbours=3,
    dataset="ab12" * 16,
)


def evaluation(protocol: Protocol) -> dict[str, object]:
    return {"fd_efflite0": 50.0, "protocol": protocol.text}


def test_equal_protocols_are_comparable() -> None:
    assert_comparable(evaluation(PROTOCOL), evaluation(replace(PROTOCOL)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"features": "inception"}, "features (efflite0 and inception)"),
        ({"weights": "0" * 64}, "weights (579357935793 and 000000000000)"),
        ({"resolution": 64}, "resolution (96 and 64)"),
        ({"resize": "bicubic"}, "resize (bilinear-antialias and bicubic)"),
        ({"split": "val"}, "split (test and val)"),
        ({"n_real": 4000}, "samples (5000x5000 and 4000x5000)"),
        ({"n_fake": 4000}, "samples (5000x5000 and 5000x4000)"),
        ({"seed": 8}, "seed (7 and 8)"),
        ({"kid_subsets": 10}, "kid (50x500 and 10x500)"),
        ({"kid_subset_size": 100}, "kid (50x500 and 50x100)"),
        ({"neighbours": 5}, "k (3 and 5)"),
        ({"dataset": "0" * 64}, "dataset (ab12ab12ab12 and 000000000000)"),
    ],
)
def test_a_difference_is_refused_and_named(change: dict[str, object], named: str) -> None:
    other = replace(PROTOCOL, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=re.escape(f"differ in {named};")):
        assert_comparable(evaluation(PROTOCOL), evaluation(other))


@pytest.mark.parametrize("content", [{}, {"protocol": None}, {"protocol": "fid"}, {"protocol": ""}])
def test_a_result_without_protocol_is_never_compared(content: dict[str, object]) -> None:
    with pytest.raises(InputError, match="no evaluation's protocol"):
        assert_comparable(content, content)
