"""The model card: told from the facts alone, in order, with nothing from outside as markup."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from components.dataset import AttributeValues, load_info
from components.errors import InputError
from components.generative import build, load_card, save_model
from components.measurement import Estimate, Estimates
from components.model_card import model_card
from components.model_card.facts import ModelFacts, TrainingFacts, read_data_facts, read_model_facts
from components.model_card.limits import limits_of
from components.model_card.markdown import code, link, plain, table
from components.policy import Baseline, as_json, judge, judge_against
from components.settings import load_settings
from tests.measurements import PROTOCOL, estimate, measurement
from tests.prepared import CATEGORIES, without_conditions, write_prepared
from tests.small import small_settings

ROOT = Path(__file__).parents[2]
HEADINGS = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics and evaluation data",
    "Training data",
    "Training",
    "Results",
    "Copying, licences and people",
    "Limits",
]


def saved(prepared: Path, folder: Path) -> Path:
    info = load_info(prepared)
    torch.manual_seed(0)
    save_model(build("gan", small_settings("gan"), info), "gan", small_settings("gan"), info, folder)
    return folder


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return write_prepared(tmp_path / "prepared")


@pytest.fixture
def facts(prepared: Path, tmp_path: Path) -> ModelFacts:
    return read_model_facts(saved(prepared, tmp_path / "model"), TrainingFacts(), data=read_data_facts(prepared))


def section(card: str, heading: str) -> str:
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0].strip()


def rows(part: str) -> dict[str, list[str]]:
    """A part's tables, by the first cell of each row."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in part.splitlines() if line[:1] == "|"]
    return {first.strip(): rest for first, *rest in cells}


def test_what_is_not_known_is_called_unknown(facts: ModelFacts) -> None:
    card = model_card(replace(facts, data=None))
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == HEADINGS
    assert "**Gate: unknown.**" in card
    assert rows(section(card, "Training")) == {
        "": [""],
        "---": ["---"],
        "Images seen": ["unknown"],
        "Seed": ["unknown"],
        "Git commit": ["unknown"],
        "Training run": ["unknown"],
        "Flow run": ["unknown"],
    }
    assert section(card, "Results") == "Unknown."
    assert "its counts, licences and sources are unknown" in section(card, "Training data")
    assert "Copies of training photos: unknown." in card
    assert section(card, "Limits") == "- Nothing is known of its quality: there is no measurement."


def test_model_details_are_those_of_the_files(facts: ModelFacts, tmp_path: Path) -> None:
    details = section(model_card(replace(facts, signature="by key 12")), "Model details")
    table_of = rows(details)
    model = build("gan", small_settings("gan"), load_info(tmp_path / "prepared"))
    numbers = sum(weight.numel() for weight in model.sampling_state().values())
    assert table_of["Size"] == [f"{numbers:,} numbers in weights.safetensors"]
    assert table_of["Images"] == ["32 x 32 pixels, grey"]
    assert load_card(tmp_path / "model").weights_sha256 in table_of["Weights"][0]
    assert table_of["Signature"] == ["by key 12"]
    settings = json.loads(details.split("```json\n")[1].split("\n```")[0])
    assert settings == small_settings("gan").model_dump(mode="json")


def test_data_are_counted_per_split_and_category(prepared: Path, facts: ModelFacts) -> None:
    manifest = pd.read_parquet(prepared / "manifest.parquet")
    part = section(model_card(facts), "Training data")
    table_of = rows(part)
    for category in CATEGORIES:
        same = manifest[manifest["category"] == category]["split"].value_counts()
        assert table_of[category] == [str(same[split]) for split in ("train", "val", "test")]
    assert table_of["all"] == ["96", "12", "48"]
    assert "Licences of the photos collected: unknown." in part
    assert "Sources of the photos collected: unknown." in part


def test_licences_come_from_the_reports(prepared: Path, tmp_path: Path, facts: ModelFacts) -> None:
    ingest, photos = tmp_path / "ingest.json", tmp_path / "facts.parquet"
    ingest.write_text(json.dumps({"licenses": {"MIT": 1200, "(none)": 3}}))
    part = section(model_card(replace(facts, data=read_data_facts(prepared, ingest))), "Training data")
    assert "Licences of the photos collected: MIT (1,200), none given (3)." in part
    pd.DataFrame({"license": ["CC0", None, "CC0"], "source": ["folder"] * 3}).to_parquet(photos)
    part = section(model_card(replace(facts, data=read_data_facts(prepared, ingest, photos))), "Training data")
    assert "Licences of the photos collected: CC0 (2), none given (1)." in part
    assert "Sources of the photos collected: folder (3)." in part


def test_another_dataset_is_not_taken_for_the_models_own(facts: ModelFacts) -> None:
    assert facts.data is not None
    part = section(model_card(replace(facts, data=replace(facts.data, digest="e" * 64))), "Training data")
    assert f"`{'d' * 64}`; its counts, licences and sources are unknown" in part
    assert f"another version, `{'e' * 64}`" in part


def metrics(**changes: Estimate) -> Estimates:
    return {"fd_efflite0": estimate(200, 5, floor=26), "copies_by_pixels": estimate(0.01, 0.001, floor=0.02)} | changes


def test_results_and_verdict(facts: ModelFacts) -> None:
    measured = measurement(metrics(), {"bag": {"kd_efflite0": estimate(0.4, 0.01)}, "boot": {}})
    verdict = as_json(judge(measured, load_settings(ROOT / "params.yaml").gate["gan"]))
    card = model_card(
        replace(
            facts,
            measurement=measured,
            verdict=verdict,
            champion="11",
            name="vitrine-gan",
            version="12",
            training=TrainingFacts(5000, 3, "abc123", "http://host/#/runs/1", "javascript:alert(1)"),
            pictures=[("samples.png", "What it makes")],
        )
    )
    assert card.startswith("# vitrine-gan, version 12\n\n**Gate: failed**")
    assert "checks, not compared with champion version 11." in card  # it could not be measured
    assert "- `MISSING_METRIC`: kd\\_efflite0: was not measured" in card
    low, high = estimate(200, 5).interval or (0, 0)
    results = rows(section(card, "Results"))
    assert results["Fréchet distance `fd_efflite0`"] == ["200", f"{low:.3g} to {high:.3g}", "26", "lower"]
    assert results["bag"][0].startswith("0.4 (0.379 to 0.421)")
    assert results["boot"] == ["missing"]
    training = rows(section(card, "Training"))
    assert training["Images seen"] == ["5,000, repeats counted"]
    assert training["Training run"] == ["[in MLflow](http://host/#/runs/1)"]
    assert training["Flow run"] == ["unknown"]
    assert rows(section(card, "Metrics and evaluation data"))["Images compared"] == [
        "5000 real and 5000 generated, under the same conditions"
    ]
    assert section(card, "Pictures") == "![What it makes](samples.png)"
    assert "copies by pixels 0.01" in section(card, "Copying, licences and people")


def test_the_card_says_with_whom_the_model_was_compared(facts: ModelFacts) -> None:
    policy = load_settings(ROOT / "params.yaml").gate["gan"]
    for baseline, champion, words in [
        (Baseline("11", measurement(metrics())), "11", "checks, compared with champion version 11."),
        (None, None, "checks, compared with no champion."),
    ]:
        verdict = as_json(judge_against(measurement(metrics()), policy, baseline))
        assert words in model_card(replace(facts, verdict=verdict, champion=champion))


def test_an_unconditional_model(tmp_path: Path) -> None:
    prepared = without_conditions(write_prepared(tmp_path / "prepared"))
    facts = read_model_facts(saved(prepared, tmp_path / "model"), TrainingFacts(), data=read_data_facts(prepared))
    card = model_card(replace(facts, measurement=measurement(metrics())))
    assert rows(section(card, "Model details"))["Conditions"] == ["none: the model is unconditional"]
    assert "None: the model is unconditional" in section(card, "Factors")
    assert rows(section(card, "Training data"))["all"] == ["96", "12", "48"]


def test_names_from_outside_stay_text(facts: ModelFacts) -> None:
    evil = "a|b `c` <script>alert(1)</script>\n## heading [x](http://y) *z* \\"
    attributes: AttributeValues = {evil: (evil,)}
    measured = measurement({evil: estimate(1, 0.1)}, {evil: {"kd_efflite0": estimate(1, 0.1)}})
    card = model_card(replace(facts, card=replace(facts.card, attributes=attributes), measurement=measured, name=evil))
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == HEADINGS
    assert "<script>" not in card.replace(code(evil), "")
    assert not re.search(r"(?<!\\)\]\(", card.replace(code(evil), ""))
    for line in section(card, "Results").splitlines():
        if line.startswith("|"):
            unescaped = line.replace("\\\\", "").replace("\\|", "")
            assert unescaped.count("|") in (6, 3)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_weights_are_named(damage: str, facts: ModelFacts, tmp_path: Path) -> None:
    weights = tmp_path / "model" / "weights.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "cut":
        weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"weights\.safetensors: cannot be read"):
        read_model_facts(tmp_path / "model", TrainingFacts())
    assert facts.numbers > 0


def test_damaged_reports_are_named(prepared: Path, tmp_path: Path) -> None:
    ingest, photos = tmp_path / "ingest.json", tmp_path / "facts.parquet"
    for content in ("{", "[]"):
        ingest.write_text(content)
        with pytest.raises(InputError, match=r"ingest\.json: damaged"):
            read_data_facts(prepared, ingest)
    photos.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"facts\.parquet: damaged"):
        read_data_facts(prepared, None, photos)
    (prepared / "manifest.parquet").unlink()
    with pytest.raises(InputError, match=r"manifest\.parquet: not found"):
        read_data_facts(prepared)


def limits(changes: Estimates, by_category: dict[str, Estimates] | None = None, **known: Any) -> str:
    found = {"fd_efflite0": estimate(200, 5, floor=26)} | changes
    return "\n".join(limits_of(measurement(found, by_category, **known), {}))


def test_numbers_that_warn_of_nothing() -> None:
    assert limits({}) == "The numbers warn of nothing in particular."


@pytest.mark.parametrize(
    ("metric", "weak", "unsure", "words"),
    [
        ("recall_efflite0", estimate(0.2, 0.01, 0.8), estimate(0.3, 0.1, 0.8), "leaves out much"),
        ("coverage_dinov2", estimate(0.4, 0.01, 0.9), estimate(0.4, 0.1, 0.9), "leaves out much"),
        ("sharpness_ratio", estimate(0.8, 0.01, 1), estimate(0.88, 0.05, 1), "makes blurred images"),
        ("sharpness_ratio", estimate(1.2, 0.01, 1), estimate(1.12, 0.05, 1), "makes images noisier than photos"),
        ("diversity_ratio", estimate(0.7, 0.01, 1), estimate(0.78, 0.05, 1), "too much alike"),
        ("copies_by_features", estimate(0.1, 0.01, 0.01), estimate(0.02, 0.02, 0.01), "comes too near to photos"),
    ],
)
def test_weakness_is_told_only_if_it_is_sure(metric: str, weak: Estimate, unsure: Estimate, words: str) -> None:
    assert words in limits({metric: weak})
    assert words not in limits({metric: unsure})
    assert words not in limits({metric: Estimate(weak.value, (), weak.floor)})
    by_category = {"bag": {metric: weak}, "dress": {metric: unsure}}
    found = limits({}, by_category)
    assert words in found
    assert "bag (" in found
    assert "dress (" not in found


def test_the_worst_categories_come_first() -> None:
    fidelity = {f"category {n}": {"condition_fidelity": estimate(0.1 * n, 0.01, 0.9)} for n in range(1, 8)}
    found = limits({"condition_fidelity": estimate(0.55, 0.01, 0.9)}, fidelity)
    assert "in: category 1 (0.1), category 2 (0.2), category 3 (0.3) and 2 more." in found
    copies = {f"category {n}": {"copies_by_pixels": estimate(0.1 * n, 0.01, 0.0)} for n in range(1, 5)}
    assert "in: category 4 (0.4), category 3 (0.3), category 2 (0.2) and 1 more." in limits({}, copies)


def test_what_is_missing_and_small_is_told() -> None:
    found = limits(
        {"kd_efflite0": Estimate(math.nan), "is_efflite0": Estimate(3.0)},
        protocol=replace(PROTOCOL, n_real=372, n_fake=372),
    )
    assert "Kernel distance (kd_efflite0) could not be computed: not a number." in found
    assert "only a hint: is_efflite0" in found
    assert "no more than 372 held-out photos" in found
    counts = {"bag": {"train": 5, "test": 100}, "boot": {"train": 0, "test": 100}, "hat": {"train": 9, "test": 7}}
    told = "\n".join(limits_of(measurement({"fd_efflite0": estimate(1, 1)}), counts))
    assert "Never trained on a photo of: boot." in told
    assert "little is known of: hat (7)." in told


def test_markdown_escapes() -> None:
    assert plain("a_b *c* [d](e) <f> & `g` |h|\ni") == (r"a\_b \*c\* \[d\](e) &lt;f&gt; &amp; \`g\` \|h\| i")
    assert code("a`b|c") == "`a'b¦c`"
    assert code("") == ""
    assert link("a", "ftp://x") == link("a", None) == ""
    assert link("a", "https://x/(y) z") == "[a](https://x/%28y%29%20z)"
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
