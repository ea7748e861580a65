"""The drawing of a metric: where everything stands on its scale."""

import math

import pytest

from components.measurement import GROUPS, Estimate
from components.report.drawings import EDGE, WIDTH, Limit, drawing_of
from tests.measurements import estimate


def test_a_drawing_puts_everything_in_its_place() -> None:
    inner = WIDTH - 2 * EDGE
    drawn = drawing_of(
        estimate(0.5, 0.05, floor=0.75),
        estimate(0.25, 0),
        [Limit(0.4, "at_least"), Limit(0.9, "at_most")],
        "precision_efflite0",
    )
    assert drawn is not None
    assert drawn.ends == (0, 1)
    assert drawn.model.at == EDGE + 0.5 * inner
    low, high = estimate(0.5, 0.05).interval or (0, 0)
    assert drawn.model.low == pytest.approx(EDGE + low * inner, abs=0.06)
    assert drawn.model.high == pytest.approx(EDGE + high * inner, abs=0.06)
    assert drawn.champion is not None
    assert drawn.champion.at == EDGE + 0.25 * inner
    assert drawn.floor == EDGE + 0.75 * inner
    assert drawn.limits == pytest.approx((EDGE + 0.4 * inner, EDGE + 0.9 * inner), abs=0.06)
    assert drawn.wrong == ((0.0, drawn.limits[0]), (drawn.limits[1], WIDTH))


@pytest.mark.parametrize(
    ("value", "limit", "start"),
    [(100.0, 250.0, 0.0), (200.0, 250.0, 197.0), (0.95, 1.0, 0.947), (-2.0, -3.0, -3.06), (0.0, None, 0.0)],
)
def test_a_scale_holds_all_and_begins_at_zero_if_that_is_near(value: float, limit: float | None, start: float) -> None:
    limits = [] if limit is None else [Limit(limit, "at_most")]
    drawn = drawing_of(Estimate(value), None, limits, "new")
    assert drawn is not None
    assert drawn.ends[0] == pytest.approx(start)
    assert drawn.ends[1] > max(value, -math.inf if limit is None else limit)
    assert drawn.model.low is None


def test_no_interval_is_drawn_beyond_what_a_metric_can_be() -> None:
    """A share of 0 whose scale is not always from 0 to 1."""
    none = Estimate(0.0, (0.0,) * GROUPS, least_error=0.002)
    drawn = drawing_of(none, None, [Limit(0.1, "at_most")], "copies_by_pixels")
    assert drawn is not None
    assert drawn.ends[0] == 0
    assert drawn.model.low == drawn.model.at == EDGE
    assert drawn.model.high is not None
    assert drawn.model.high > EDGE


def test_what_is_not_finite_is_left_out_of_a_drawing() -> None:
    assert drawing_of(Estimate(math.nan), None, [], "new") is None
    drawn = drawing_of(Estimate(1.0, floor=math.inf), Estimate(math.nan), [], "new")
    assert drawn is not None
    assert drawn.floor is None
    assert drawn.champion is None
