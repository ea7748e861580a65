"""The evaluation page: what it says, that nothing from outside becomes markup, and that it needs nothing else."""

import html
import math
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.errors import InputError
from components.measurement import T_95, Estimate, Estimates, Measurement
from components.policy import Baseline, Code, as_json, failed_for, judge, judge_against
from components.report.evaluation import (
    LARGEST,
    Champion,
    EvaluationPage,
    Fact,
    data_uri,
    read_pictures,
    render_evaluation,
    write_evaluation,
)
from components.report.protocols import in_words
from components.settings import ChampionCheck, GateCheck, GatePolicy
from tests.measurements import PROTOCOL, WEIGHTS_SHA256, estimate, measurement

EVIL = """<script>alert(1)</script><img src=x onerror=alert(1)>"' {{ 7*7 }}"""
POLICY = GatePolicy(
    required=["kd_efflite0"],
    thresholds=[GateCheck(metric="fd_efflite0", at_most=250)],
    by_category=[GateCheck(metric="condition_fidelity", at_least=0.3)],
    memorisation=[GateCheck(metric="copies_by_pixels", at_most=0.1)],
    champion=[ChampionCheck(metric="fd_efflite0", direction="minimize", better_by=0)],
    first_model="promote",
)


def metrics(**changes: Estimate) -> Estimates:
    found = {
        "fd_efflite0": estimate(200, 5, floor=26),
        "kd_efflite0": estimate(0.4, 0.02, floor=-0.001),
        "copies_by_pixels": estimate(0.01, 0.002, floor=0.0125),
    }
    return found | changes


def by_category(names: tuple[str, str] = ("bag", "dress")) -> dict[str, Estimates]:
    good, bad = names
    return {good: {"condition_fidelity": estimate(0.8, 0.01)}, bad: {"condition_fidelity": estimate(0.25, 0.01)}}


def page_of(measured: Measurement, **changes: Any) -> EvaluationPage:
    return EvaluationPage(
        "gan", {**as_json(judge(measured, POLICY)), "weights_sha256": WEIGHTS_SHA256}, measured, **changes
    )


def text_of(page: EvaluationPage | str) -> str:
    """What a reader sees, in one line."""
    markup = page if isinstance(page, str) else render_evaluation(page)
    body = re.sub(r"<style>.*?</style>", "", markup, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


class Elements(HTMLParser):
    """Names and attributes of all elements of a page, and which are left open."""

    VOID = ("meta", "br", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_failed_verdict_comes_first_with_what_failed() -> None:
    shown = text_of(page_of(measurement(metrics(), by_category()), name="vitrine-gan", version="12"))
    start = shown.index("vitrine-gan version 12 does not pass")
    assert "1 of 5 checks are not met" in shown
    reason = shown.index("THRESHOLD_MISSED Condition fidelity, dress")
    assert start < reason < shown.index("What was measured")
    assert "condition_fidelity of 'dress': 0.25" in shown
    assert "no champion to compare with" in shown


def test_a_passed_verdict_says_so() -> None:
    measured = measurement(metrics(), {"bag": by_category()["bag"]})
    shown = text_of(page_of(measured))
    assert "gan passes its gate All 4 checks are met" in shown
    assert "not yet compared with a champion" in shown
    assert "THRESHOLD_MISSED" not in shown


def test_each_metric_stands_with_interval_floor_and_limit() -> None:
    shown = text_of(page_of(measurement(metrics())))
    low, high = estimate(200, 5).interval or (0, 0)
    assert f"200 {low:.3g} to {high:.3g} · real photos reach 26" in shown
    assert "Fréchet distance fd_efflite0" in shown
    assert "✓ at most 250" in shown
    assert "real photos reach −0.001" in shown


def against(champion: Measurement, measured: Measurement) -> EvaluationPage:
    verdict = as_json(judge_against(measured, POLICY, Baseline("11", champion)))
    return EvaluationPage("gan", {**verdict, "weights_sha256": None}, measured, champion=Champion("11", champion))


@pytest.mark.parametrize(
    ("value", "words"), [(150, "surely better"), (260, "surely worse"), (204, "no sure difference")]
)
def test_the_champion_is_compared_by_the_interval_of_the_difference(value: float, words: str) -> None:
    # The same deviations in both: what the choice of photos adds drops out, but for the further noise here.
    champion = measurement(metrics(fd_efflite0=estimate(205, 0)))
    mine = measurement(metrics(fd_efflite0=estimate(value, 5)))
    shown = text_of(against(champion, mine))
    difference = estimate(value - 205, 5).interval or (0, 0)
    numbers = [f"{end:.3g}".replace("-", "−") for end in (value - 205, *difference)]
    assert f"difference {numbers[0]} ({numbers[1]} to {numbers[2]}): {words}" in shown
    assert "champion 205 (205 to 205)" in shown


def test_shares_of_few_images_do_not_differ_surely() -> None:
    """The replicates of all right and of all wrong but one are the same."""
    shares = [Estimate(value, (value,) * 20, least_error=0.1) for value in (1.0, 0.8)]
    mine, champion = (measurement(metrics(condition_fidelity=share)) for share in shares)
    shown = text_of(against(champion, mine))
    low, high = (0.2 + sign * T_95 * 0.1 * math.sqrt(2) for sign in (-1, 1))
    assert f"difference 0.2 (−{-low:.3g} to {high:.3g}): no sure difference" in shown


def test_under_another_protocol_nothing_is_compared() -> None:
    champion = measurement(metrics(), protocol=replace(PROTOCOL, seed=8))
    shown = text_of(against(champion, measurement(metrics())))
    assert "Champion version 11 was measured under another protocol, so nothing is compared below." in shown
    assert "not compared with champion version 11" in shown
    assert "difference" not in shown
    assert "STALE_BASELINE" in shown


def test_a_champion_that_could_not_be_measured_is_told() -> None:
    shown = text_of(page_of(measurement(metrics()), champion=Champion("11", None)))
    assert "Champion version 11 could not be measured" in shown


@pytest.mark.parametrize(
    ("value", "words"), [(math.nan, "not a number"), (math.inf, "infinite"), (-math.inf, "minus infinity")]
)
def test_what_is_no_finite_number_is_told(value: float, words: str) -> None:
    measured = measurement(
        metrics(copies_by_pixels=Estimate(value, (), floor=math.nan)),
        {"bag": {"condition_fidelity": Estimate(value)}, "dress": by_category()["dress"], "hat": {}},
    )
    page = page_of(measured)
    shown = text_of(page)
    assert f"{words}: nothing to draw" in shown
    assert "real photos reach not a number" in shown
    assert f"{words} no interval" in shown
    assert "hat missing" in shown
    assert "nan" not in re.sub(r"NOT_A_NUMBER", "", shown).lower().split()


def test_a_missing_interval_is_told() -> None:
    shown = text_of(page_of(measurement(metrics(fd_efflite0=Estimate(200.0)))))
    assert "200 no interval" in shown
    assert "MISSING_INTERVAL" in shown


def test_without_a_measurement_the_verdict_still_stands() -> None:
    verdict = as_json(failed_for(Code.UNREADABLE, "measurement.json: damaged"))
    shown = text_of(EvaluationPage("gan", {**verdict, "weights_sha256": None}, None))
    assert "gan does not pass Nothing could be checked." in shown
    assert "UNREADABLE measurement.json: damaged" in shown
    assert "there is no measurement that could be read" in shown


def marked(page: EvaluationPage, kind: str) -> list[str]:
    return re.findall(rf'<td class="{kind}"><b>([^<]*)</b>', render_evaluation(page))


def test_the_worst_of_each_column_is_marked_and_what_failed_more_so() -> None:
    found = {
        name: {
            "condition_fidelity": estimate(fidelity, 0.01),
            "kd_efflite0": estimate(distance, 0.01),
            "sharpness_ratio": estimate(sharpness, 0.01),
            "coverage_efflite0": Estimate(coverage),
            "copying_ct": estimate(copying, 0.01),
        }
        for name, fidelity, distance, sharpness, coverage, copying in [
            ("bag", 0.9, 0.71, 0.95, 0.5, 1.5),
            ("dress", 0.2, 0.3, 1.0, math.nan, 0.1),
            ("hat", 0.7, 0.4, 1.15, 0.6, -2.5),
        ]
    }
    page = page_of(measurement(metrics(), found))
    assert marked(page, "missed") == ["0.2"]
    assert sorted(marked(page, "worst")) == ["0.5", "0.71", "1.15", "−2.5"]
    assert marked(page, "bad") == ["not a number"]


def test_nothing_from_outside_becomes_markup() -> None:
    measured = measurement(
        metrics(**{EVIL: estimate(1, 1)}), by_category((EVIL, f"{EVIL}2")), protocol=f"version=2; dataset={EVIL}"
    )
    picture = Image.new("RGB", (20, 20))
    page = replace(
        page_of(measured),
        family=EVIL,
        name=EVIL,
        version=EVIL,
        champion=Champion(EVIL, None),
        strips=[(EVIL, {EVIL: picture})],
        facts=[Fact(EVIL, EVIL, EVIL), Fact("a", "b", "javascript:alert(1)"), Fact("c", "d", 'https://x/"onclick="y')],
    )
    markup = render_evaluation(page)
    elements = Elements(markup)
    assert elements.open == []
    assert not {"script", "iframe", "link", "object"} & {tag for tag, _ in elements.found}
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert text_of(markup).count("{{ 7*7 }}") > 8
    assert [
        found["href"] for tag, found in elements.found if tag == "a" and not str(found["href"]).startswith("#")
    ] == ['https://x/"onclick="y']


def test_it_needs_nothing_from_elsewhere_and_is_the_same_each_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {
        name: Image.fromarray(rng.integers(0, 256, (66, 200, 3), dtype=np.uint8))
        for name in ("interpolations.png", "closest_pairs.png", "unknown.png")
    }
    strips = [("bag", {"candidate": pictures["interpolations.png"], "real": pictures["closest_pairs.png"]})]
    page = page_of(measurement(metrics(), by_category()), pictures=pictures, strips=strips)
    write_evaluation(tmp_path / "one.html", page)
    write_evaluation(tmp_path / "two.html", page)
    markup = (tmp_path / "one.html").read_text("utf-8")
    assert markup == (tmp_path / "two.html").read_text("utf-8")
    sources = [found["src"] or "" for tag, found in Elements(markup).found if tag == "img"]
    assert len(sources) == 4
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert "default-src 'none'" in markup
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", markup)
    assert "url(" not in markup


def pixels_of(uri: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(BytesIO(b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "samples.png")
    assert set(read_pictures(tmp_path)) == {"samples.png"}
    content = (tmp_path / "samples.png").read_bytes()
    for damaged in (b"", content[:40], content[:-30]):
        (tmp_path / "samples.png").write_bytes(damaged)
        with pytest.raises(InputError, match=r"samples\.png: damaged .* `dvc checkout`"):
            read_pictures(tmp_path)


def test_pictures_are_exact_unless_they_are_too_large() -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (64, 600))
    assert (pixels_of(data_uri(Image.fromarray(small))) == small).all()
    assert (pixels_of(data_uri(Image.fromarray(small[:, :, 0]))) == small[:, :, :1]).all()
    uri = data_uri(Image.fromarray(large))
    assert len(uri) < large.size
    assert large.size > LARGEST


def test_a_protocol_in_words() -> None:
    words = dict(in_words(PROTOCOL.text))
    assert words["Images compared"] == "5000 real and 5000 generated, under the same conditions"
    assert words["Images are resized for it"] == "to 96 x 96 pixels"
    assert words["Weights of the model"] == "averaged ones where it keeps them"
    # Every part of what this version writes has words of its own.
    assert not set(words) & {part.partition("=")[0] for part in PROTOCOL.text.split("; ")}
    assert in_words("samples=5; new=x") == [("Images compared", "5"), ("new", "x")]
