"""The page: what it shows, that nothing from outside becomes markup, and that it needs nothing else."""

import html
import json
import re
from base64 import b64decode
from collections.abc import Callable
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from components.errors import InputError
from components.photos.thumbnails import thumbnails
from components.raw import Photo, read_group, row_groups
from components.report.dataset import OF_CATEGORY, Inputs, write_report
from components.settings import DecodingSettings
from components.tables import read_table, write_table
from components.validation.approved import PHOTO_COLUMNS, approve
from components.validation.drift import profile_of
from components.validation.facts import gather_facts
from components.validation.quarantine import by_reason, in_words
from components.validation.verdict import ValidationReport, accepted_of

Encode = Callable[..., bytes]
MakePhoto = Callable[..., Photo]
MakeRaw = Callable[..., Path]
LIMITS = DecodingSettings(pixels=10**7, frames=10, seconds=20.0, memory_mb=1024)
EVIL = """<script>alert(1)</script><img src=x onerror=alert(1)>"' {{ 7*7 }}"""
RANGE = "expect_column_values_to_be_between(width)"
UNREADABLE = "expect_column_values_to_be_null(decode_error)"


class Elements(HTMLParser):
    """Names and attributes of all elements of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(work, groups, columns, limits, *args):  # type: ignore[no-untyped-def]
        del limits
        return ((work(read_group(group, columns), *args), []) for group in groups)

    monkeypatch.setattr("components.validation.facts.over_groups", here)
    monkeypatch.setattr("components.photos.thumbnails.over_groups", here)


@pytest.fixture
def inputs(tmp_path: Path, make_raw: MakeRaw, encoded: Encode) -> Inputs:
    """Twelve bags and two photos in quarantine, all with names that are markup; one category that is."""
    rng = np.random.default_rng(0)
    files = [encoded(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(13)]
    photos = [
        Photo(
            image=content,
            file_name=f"{EVIL}{number}",
            category="bag" if number else EVIL,
            license=EVIL,
            source="test",
            attributes={"material": EVIL},
        )
        for number, content in enumerate([*files, b"broken"])
    ]
    raw = make_raw(tmp_path / "raw", photos)
    names = {"file_name": [f"{EVIL}.txt", "b", "c"], "reason": [EVIL, "repeats another photo: a", f"repeats: {EVIL}"]}
    write_table(pa.table(names), raw / "refused.parquet")
    write_table(pa.table({"file_name": ["gone.jpg"], "reason": ["erasure request"]}), raw / "removed.parquet")
    facts = gather_facts(raw, LIMITS)
    rows = facts.to_pylist()
    aside = sorted((row["id"], row["file_name"]) for row in rows if row["file_name"].endswith(("12", "13")))
    reasons = [f"{RANGE}: 30; {EVIL}", f"{UNREADABLE}: {EVIL}"]
    table = pa.table(
        [[each[0] for each in aside], [each[1] for each in aside], reasons], ["id", "file_name", "reasons"]
    )
    write_table(facts, tmp_path / "validated" / "facts.parquet")
    write_table(table, tmp_path / "validated" / "quarantine.parquet")
    found = Inputs(raw, tmp_path / "validated", tmp_path / "approved", tmp_path / "validation.json")
    write_validation(found, accepted_of(facts, table))
    return found


def write_validation(inputs: Inputs, accepted: pa.Table, passed: bool = True, base: str | None = None) -> None:
    profile = profile_of(accepted)
    number = 0.25 if base else None
    changes = dict.fromkeys(("added", "removed", "recategorized"), 0)
    report = ValidationReport.model_validate(
        {
            "passed": passed,
            "digest": profile.digest,
            "photos": 14,
            "accepted": accepted.num_rows,
            "quarantined": 2,
            "quarantined_share": 2 / 14,
            "refused": 1,
            "undecodable": 1,
            "undecodable_share": 0.1,
            "categories": profile.categories,
            "drift": {"against": base, "category_kl": number, "brightness_kl": number, "accepted": False, **changes},
            "expectations": {key: {"success": False, "unexpected": 1} for key in (RANGE, UNREADABLE)},
            "checked": [{"name": name, "where": EVIL, "limits": f"min_value={EVIL}"} for name in (RANGE, UNREADABLE)],
            "failures": [] if passed else [{"key": "params.yaml: a.b", "text": EVIL, "examples": [EVIL]}],
        }
    )
    inputs.validation.write_text(json.dumps(report.model_dump()))


def accepted(inputs: Inputs) -> pa.Table:
    return accepted_of(*(read_table(inputs.validated / f"{name}.parquet", "") for name in ("facts", "quarantine")))


def page_of(inputs: Inputs) -> str:
    path = inputs.validation.with_suffix(".html")
    write_report(path, inputs, LIMITS)
    return path.read_text("utf-8")


def with_cleaning(inputs: Inputs, folder: Path) -> Inputs:
    """As prepare leaves it: one near-duplicate, one outlier, the rest split."""
    rows = accepted(inputs).to_pylist()
    kept, copy, odd = rows[0], rows[1], rows[2]
    left_out = {
        "id": [copy["id"], odd["id"]],
        "file_name": [copy["file_name"], odd["file_name"]],
        "reason": ["near-duplicate", "outlier"],
        "of": pa.array([kept["id"], None], pa.string()),
        "score": pa.array([None, 4.5], pa.float64()),
    }
    pair = {"id_a": [kept["id"]], "id_b": [copy["id"]], "distance": [3], "similarity": [0.987]}
    outlier = {
        "id": [odd["id"]],
        "file_name": [odd["file_name"]],
        "category": [EVIL],
        "score": [4.5],
        "dropped": [True],
    }
    for name, content in (("left_out", left_out), ("pairs", pair), ("outliers", outlier)):
        write_table(pa.table(content), folder / "cleaning" / f"{name}.parquet")
    splits = ["train"] * (len(rows) - 4) + ["test"] * 2
    manifest = {"id": [row["id"] for row in rows[2:]], "split": splits, "category": [EVIL] * len(splits)}
    write_table(pa.table(manifest), folder / "prepared" / "manifest.parquet")
    return Inputs(
        inputs.raw, inputs.validated, inputs.approved, inputs.validation, folder / "cleaning", folder / "prepared"
    )


@pytest.fixture
def everything(inputs: Inputs, tmp_path: Path) -> Inputs:
    """With all sections: compared with an older version, failed, cleaned."""
    table = accepted(inputs)
    rows = sorted(table.to_pylist(), key=lambda row: row["category"] != "bag")
    moved, lost = {**rows[1], "category": "hat"}, {**rows[1], "id": "f" * 64, "file_name": EVIL}
    before = sorted([moved, *rows[2:], lost], key=lambda row: str(row["id"]))
    older = pa.Table.from_pylist(before, table.schema)
    profile = profile_of(older)
    approve(inputs.approved, profile, older.select(PHOTO_COLUMNS))
    write_validation(inputs, table, passed=False, base=profile.digest)
    return with_cleaning(inputs, tmp_path)


def test_nothing_from_outside_becomes_markup(everything: Inputs) -> None:
    page = page_of(everything)
    assert page.count("&lt;script&gt;alert(1)") > 20
    elements = Elements(page).found
    assert not [tag for tag, _ in elements if tag in ("script", "iframe", "object", "link", "form")]
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    assert "49" not in re.findall(r"&gt;&#34;&#39; (\S+)", page), "names are no templates"
    assert "{{ 7*7 }}" in page


def test_the_page_needs_nothing_but_itself(everything: Inputs) -> None:
    elements = Elements(page_of(everything)).found
    sources = [attributes[name] or "" for _, attributes in elements for name in ("src", "href") if name in attributes]
    assert len(sources) > 12
    assert all(source.startswith(("data:image/webp;base64,", "#")) for source in sources)
    anchors = {attributes["id"] for _, attributes in elements if "id" in attributes}
    assert {source[1:] for source in sources if source.startswith("#")} <= anchors


def test_the_same_inputs_give_the_same_bytes(everything: Inputs) -> None:
    assert page_of(everything) == page_of(everything)


def test_photos_accepted_and_put_aside_are_shown(inputs: Inputs) -> None:
    page = page_of(inputs)
    assert "The photos pass" in page
    assert page.count('<img src="data:image/webp') == OF_CATEGORY + 1 + 1, "the broken one has no picture"
    assert "Width: outside its limits" in page
    assert "No readable photo" in page
    assert "erasure request" in page
    assert "gone.jpg" in page
    for name in ("Cleaning", "Splits", "What changed", "Augmentation"):
        assert f">{name}</h2>" not in page


def test_all_sections_are_there_once_prepare_has_run(everything: Inputs) -> None:
    page = page_of(everything)
    assert "The photos do not pass: 1 problem<" in page
    for name in ("Problems", "Cleaning", "Splits", "What changed", "Quarantine", "Distributions"):
        assert f">{name}</h2>" in page
    assert "0.987, 3 bits" in page
    assert "4.50, left out" in page
    assert "1 added, 1 removed, 1 recategorized" in page
    assert "hat to bag" in page
    assert page.count(">gone</td>") == 1, "hats"


def test_without_the_category_as_a_condition_splits_are_counted_by_the_facts(everything: Inputs) -> None:
    """The manifest then has no such column, and an outlier may have no category."""
    assert everything.cleaning is not None
    assert everything.prepared is not None
    path = everything.prepared / "manifest.parquet"
    category = dict(zip(*(accepted(everything)[name].to_pylist() for name in ("id", "category")), strict=True))
    ids = read_table(path, "prepare")["id"].to_pylist()
    write_table(pa.table({"id": ids, "split": ["train" if category[each] == "bag" else "test" for each in ids]}), path)
    outliers = read_table(everything.cleaning / "outliers.parquet", "prepare")
    nothing = pa.array([None] * len(outliers), pa.string())
    write_table(outliers.set_column(2, "category", nothing), everything.cleaning / "outliers.parquet")
    page = page_of(everything)
    splits = page[page.index(">Splits</h2>") :]
    rows = re.findall(
        r'<tr><td>([^<]+)</td><td class="n">(\d+)</td><td class="n">0</td><td class="n">(\d+)</td>', splits
    )
    found = {html.unescape(name): (int(train), int(test)) for name, train, test in rows}
    assert found == {"bag": (len(ids) - 1, 0), EVIL: (0, 1)}
    assert "no category 4.50, left out" in page


def test_refused_files_are_counted_by_kind(inputs: Inputs) -> None:
    page = page_of(inputs)
    assert re.search(
        r'<td class="n">1</td><td>repeats another photo</td>\s*<td class="soft"><code>b \(a\)</code>', page
    )


def test_pictures_are_of_the_photos_that_they_stand_for(
    tmp_path: Path, make_raw: MakeRaw, make_photo: MakePhoto, encoded: Encode
) -> None:
    colors = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250)}
    photos = [make_photo(encoded(Image.new("RGB", (900, 500), color)), n) for n, color in enumerate(colors.values())]
    rows = [photo.row() for photo in photos]
    raw = make_raw(tmp_path / "raw", photos)
    found = thumbnails(row_groups(raw), [str(row["id"]) for row in rows], LIMITS)
    for row, color in zip(rows, colors.values(), strict=True):
        picture = Image.open(BytesIO(b64decode(found[str(row["id"])].partition(",")[2])))
        assert picture.size == (160, 89)
        np.testing.assert_allclose(np.asarray(picture.convert("RGB")).mean(axis=(0, 1)), color, atol=8)


def test_missing_inputs_are_told(inputs: Inputs) -> None:
    (inputs.validated / "facts.parquet").unlink()
    with pytest.raises(InputError, match="not found"):
        page_of(inputs)


def test_a_value_with_the_separator_stays_one_reason() -> None:
    table = pa.table({"id": ["1"], "file_name": ["a"], "reasons": [f"{RANGE}: 3; x; y; {UNREADABLE}: no; good"]})
    reasons = by_reason(table, {RANGE: "min_value=4", UNREADABLE: ""}, lambda rows: rows.to_pylist())
    assert [(reason.expectation, reason.photos[0]["value"]) for reason in reasons] == [
        (RANGE, "3; x; y"),
        (UNREADABLE, "no; good"),
    ]


@pytest.mark.parametrize(
    ("expectation", "words"),
    [
        ("expect_column_values_to_be_in_set(category) #2", "Category: not among the allowed values"),
        ("expect_column_values_to_not_be_null(license)", "License: missing"),
        ("expect_column_value_lengths_to_equal(phash)", "expect_column_value_lengths_to_equal(phash)"),
    ],
)
def test_expectations_in_words(expectation: str, words: str) -> None:
    assert in_words(expectation) == words
