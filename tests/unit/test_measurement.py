import json
import math
from pathlib import Path

import pytest
import torch
from scipy import stats

from components.errors import InputError
from components.measurement import (
    GROUPS,
    T_95,
    Estimate,
    read_measurement,
    share_error,
    standard_error,
    write_measurement,
)
from tests.measurements import estimate, measurement


def test_the_quantile_is_that_of_students_t() -> None:
    assert pytest.approx(stats.t.ppf(0.975, GROUPS - 1), rel=1e-9) == T_95


def test_the_jackknife_of_a_mean_is_its_textbook_standard_error() -> None:
    values_N = torch.randn(GROUPS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    replicates = [float((values_N.sum() - left_out) / (GROUPS - 1)) for left_out in values_N]
    assert standard_error(replicates) == pytest.approx(float(values_N.std() / GROUPS**0.5), rel=1e-12)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(2)
    covered = 0
    for _ in range(2000):
        group_means_N = torch.randn(GROUPS, generator=generator, dtype=torch.float64)
        replicates = tuple(((group_means_N.sum() - group_means_N) / (GROUPS - 1)).tolist())
        interval = Estimate(float(group_means_N.mean()), replicates).interval
        assert interval is not None
        covered += interval[0] <= 0 <= interval[1]
    # Of 2000 at 95%: four standard deviations to either side.
    assert 1860 < covered < 1940


@pytest.mark.parametrize(("hits", "count"), [(0, 14), (14, 14), (1, 14), (7, 14), (3, 1000), (0, 1)])
def test_a_share_is_no_surer_than_wilsons_interval(hits: int, count: int) -> None:
    wilson = stats.binomtest(hits, count).proportion_ci(method="wilson")
    share = hits / count
    found = Estimate(share, (share,) * GROUPS, least_error=share_error(share, count))
    assert found.interval is not None
    low, high = found.interval
    assert low <= wilson.low + 1e-9
    assert high >= wilson.high - 1e-9
    assert max(wilson.high - share, share - wilson.low) == pytest.approx(high - share)


def test_the_least_error_only_widens() -> None:
    replicates = tuple(0.5 + 0.02 * (-1) ** group for group in range(GROUPS))
    plain = Estimate(0.5, replicates)
    assert Estimate(0.5, replicates, least_error=0.01).interval == plain.interval
    wide = Estimate(0.5, replicates, least_error=0.2).interval
    assert wide == pytest.approx((0.5 - 0.2 * T_95, 0.5 + 0.2 * T_95))
    assert Estimate(0.5, (), least_error=0.2).interval is None


def test_a_file_without_least_errors_is_damaged(tmp_path: Path) -> None:
    """Shares would be surer than they are."""
    path = tmp_path / "measurement.json"
    write_measurement(path, measurement({"fd": estimate(40.25, 2.0), "share": Estimate(0.5, least_error=0.25)}))
    assert read_measurement(path).metrics["share"].least_error == 0.25
    content = json.loads(path.read_text())
    del content["metrics"]["fd"]["least_error"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"damaged.*least_error"):
        read_measurement(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_with_a_least_error_that_is_none_there_is_no_interval(bad: float) -> None:
    assert Estimate(0.5, (0.5,) * GROUPS, least_error=bad).interval is None


@pytest.mark.parametrize("replicates", [(), (1.0,) * (GROUPS - 1), (math.nan, *(1.0,) * (GROUPS - 1))])
def test_without_all_replicates_there_is_no_interval(replicates: tuple[float, ...]) -> None:
    assert Estimate(1.0, replicates).interval is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_finite_number_has_no_interval(value: float) -> None:
    assert Estimate(value, (1.0,) * GROUPS).interval is None


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    broken = Estimate(math.nan, (math.inf,) * GROUPS, None)
    written = measurement(
        {"fd": estimate(40.25, 2.0, floor=7.5), "kd": Estimate(0.125), "broken": broken},
        {"dress": {"fd": estimate(50.0, 1.0)}},
    )
    path = tmp_path / "measurement.json"
    write_measurement(path, written)
    found = read_measurement(path)
    assert math.isnan(found.metrics.pop("broken").value)
    assert written.metrics.pop("broken") is broken
    assert found == written
    # Whoever reads the file by other means sees plain JSON.
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["metrics"]["broken"]["value"] == "nan"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"metrics": {}, "by_category": {}, "protocol": 1, "weights_sha256": "a"}',
        '{"metrics": {}, "by_category": {}, "protocol": "p", "weights_sha256": null}',
        '{"metrics": {"fd": 4}, "by_category": {}, "protocol": "p", "weights_sha256": "a"}',
        '{"metrics": {"fd": {"value": true, "replicates": [], "floor": null}}, "by_category": {}, '
        '"protocol": "p", "weights_sha256": "a"}',
        '{"metrics": {"fd": {"value": "many", "replicates": [], "floor": null}}, "by_category": {}, '
        '"protocol": "p", "weights_sha256": "a"}',
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "measurement.json"
    path.write_text(content)
    with pytest.raises(InputError, match="damaged"):
        read_measurement(path)


def test_a_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dvc pull"):
        read_measurement(tmp_path / "measurement.json")
