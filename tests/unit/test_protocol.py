import re
from dataclasses import replace

import pytest

from components.errors import InputError
from components.protocol import VERSION, assert_comparable, assert_known
from tests.measurements import PROTOCOL


def test_equal_protocols_are_comparable() -> None:
    assert_comparable(PROTOCOL.text, replace(PROTOCOL).text)


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
        ({"per_category": 0}, "per_category (100 and 0)"),
        ({"train_photos": 10}, "train (20000 and 10)"),
        ({"copy_samples": 10}, "copies (1000@0.01 and 10@0.01)"),
        ({"copy_quantile": 0.05}, "copies (1000@0.01 and 1000@0.05)"),
        ({"neighbours": 5}, "k (3 and 5)"),
        ({"dataset": "0" * 64}, "dataset (ab12ab12ab12 and 000000000000)"),
    ],
)
def test_a_difference_is_refused_and_named(change: dict[str, object], named: str) -> None:
    other = replace(PROTOCOL, **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=re.escape(f"differ in {named};")):
        assert_comparable(PROTOCOL.text, other.text)


@pytest.mark.parametrize("text", ["None", "fid", "", "features=efflite0"])
def test_a_result_without_protocol_is_never_compared(text: str) -> None:
    with pytest.raises(InputError, match="no evaluation's protocol"):
        assert_comparable(text, text)


def test_another_versions_protocol_is_not_known() -> None:
    assert_known(PROTOCOL.text)
    with pytest.raises(InputError, match=f"version {VERSION + 1}, this code knows {VERSION}"):
        assert_known(PROTOCOL.text.replace(f"version={VERSION}", f"version={VERSION + 1}"))
