"""metadata.csv, .jsonl and .parquet: what they say, and what is wrong with them."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import InputError
from components.ingest import ingest
from components.sources.metadata import RESERVED, as_text, read_metadata
from tests.sourcing import refused, settings_of, taken, write_files


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_CACHE", str(tmp_path_factory.mktemp("cache")))


ROWS: list[dict[str, Any]] = [
    {
        "file_name": "dress/1.jpg",
        "label": "gown",
        "text": "A dress,\nin two lines",
        "licence": "CC0",
        "source_url": "https://shop.example/1",
        "group_id": 17,
        "Colour": "rot",
        "washable": True,
        "price": 9.5,
        "pieces": 3,
    },
    {"file_name": "2.jpg", "label": "", "text": None, "price": float("nan"), "pieces": 4, "washable": False},
]


def written(folder: Path, kind: str) -> Path:
    path = folder / f"metadata.{kind}"
    frame = pd.DataFrame(ROWS)
    if kind == "csv":
        frame["washable"] = frame["washable"].map({True: "true", False: "false"})
        frame["group_id"] = frame["group_id"].astype("Int64")
        frame.to_csv(path, index=False)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    else:
        frame.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_all_formats_say_the_same(tmp_path: Path, kind: str) -> None:
    write_files(tmp_path / "photos", {"dress/1.jpg": b"1", "2.jpg": b"2"})
    written(tmp_path / "photos", kind)
    ingest(settings_of("folder", tmp_path / "photos"), tmp_path / "raw")
    rows = taken(tmp_path / "raw")
    one, two = rows["dress/1.jpg"], rows["2.jpg"]
    assert (one["category"], one["license"], one["source_url"]) == ("gown", "CC0", "https://shop.example/1")
    assert (one["group_id"], one["text"]) == ("17", "A dress,\nin two lines")
    assert json.loads(one["attributes"]) == {"color": "rot", "pieces": "3", "price": "9.5", "washable": "true"}
    assert (two["category"], two["text"], two["license"], two["group_id"]) == (None, None, None, None)
    assert json.loads(two["attributes"]) == {"pieces": "4", "washable": "false"}
    assert refused(tmp_path / "raw") == {}


def test_each_folder_may_have_its_own(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "metadata.csv": "file_name,season\ntop.jpg,summer\nplain/a.jpg,winter\n",
        "top.jpg": b"1",
        "plain/a.jpg": b"2",
        "train/metadata.jsonl": '{"file_name": "hat/b.jpg", "category": "cap"}\n',
        "train/hat/b.jpg": b"3",
        "__MACOSX/metadata.csv": "not a metadata file",
    }
    ingest(settings_of("folder", write_files(tmp_path / "photos", files)), tmp_path / "raw")
    rows = taken(tmp_path / "raw")
    found = {name: (row["split_hint"], row["category"], row["attributes"]) for name, row in rows.items()}
    assert found == {
        "top.jpg": (None, None, '{"season": "summer"}'),
        "plain/a.jpg": (None, "plain", '{"season": "winter"}'),
        "train/hat/b.jpg": ("train", "cap", "{}"),
    }


def test_rows_without_file_and_files_without_row_are_told(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "metadata.csv": "file_name,category\na.jpg,hat\n./gone.jpg,hat\nempty.jpg,hat\ncafe\u0301.jpg,hat\n",
        "a.jpg": b"a",
        "b.jpg": b"b",
        "empty.jpg": b"",
        "caf\u00e9.jpg": b"e",
    }
    ingest(settings_of("folder", write_files(tmp_path / "photos", files)), tmp_path / "raw")
    assert set(taken(tmp_path / "raw")) == {"a.jpg", "caf\u00e9.jpg"}
    assert refused(tmp_path / "raw") == {
        "b.jpg": "no row in metadata.csv",
        "gone.jpg": "not in the source, but in metadata.csv: line 3",
        "empty.jpg": "empty",
    }


def test_a_corrected_row_makes_a_new_record(tmp_path: Path) -> None:
    photos = write_files(tmp_path / "photos", {f"{n}.jpg": f"{n}" for n in range(4)})
    for season in ("summer", "winter"):
        rows = f"0.jpg,{season}\n1.jpg,\n2.jpg,\n3.jpg,\n"
        write_files(photos, {"metadata.csv": f"file_name,season\n{rows}"})
        report, changes = ingest(settings_of("folder", photos), tmp_path / "raw")
    assert (report.parts, report.version, changes.new, changes.unchanged) == (2, 1, 0, 4)
    assert taken(tmp_path / "raw")["0.jpg"]["attributes"] == '{"season": "winter"}'


WRONG = {
    "": "metadata.csv, line 1: found the columns ; one must be file_name",
    "name,color\na.jpg,red\n": "line 1: found the columns name, color; one must be file_name",
    "file_name,a,a\nx.jpg,1,2\n": "line 1: column 'a' stands there twice",
    "file_name,label,category\nx.jpg,1,2\n": "columns 'label' and 'category' mean the same",
    "file_name,Size,size\nx.jpg,1,2\n": "columns 'Size' and 'size' mean the same",
    "file_name,width\nx.jpg,1\n": "column 'width': that name is taken",
    "file_name,Width\nx.jpg,1\n": "column 'Width': that name is taken",
    "file_name,source\nx.jpg,1\n": "column 'source': that name is taken",
    "file_name,2nd\nx.jpg,1\n": "column '2nd': an attribute's name",
    "file_name,a-b\nx.jpg,1\n": "column 'a-b': an attribute's name",
    "file_name,\nx.jpg,1\n": "column '': an attribute's name",
    "file_name,a\nx.jpg\n": "line 2: found 1 values, the first line names 2 columns",
    'file_name,a\nx.jpg,"1\n': "line 2: cannot be read as CSV: unexpected end of data",
    "file_name,a\n\nx.jpg,1\ny.jpg,2\nx.jpg,3\n": "line 5: names 'x.jpg' a second time, first in line 3",
    "file_name,a\nx.jpg,1\n./x.jpg,3\n": "line 3: names 'x.jpg' a second time, first in line 2",
    "file_name,a\n../x.jpg,1\n": r"line 2: file_name: found '../x.jpg'; it must be a path below",
    "file_name,a\n/x.jpg,1\n": r"line 2: file_name: found '/x.jpg'; it must be a path below",
    "file_name,a\n,1\n": "line 2: file_name: found ''; it must be the path of a photo",
    "file_name,a\nx.jpg,\xff\n": "line 2: not UTF-8",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_what_is_wrong_with_a_csv_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_metadata("metadata.csv", text.encode("latin-1"))
    assert message in str(caught.value)


WRONG_JSONL = {
    '{"file_name": "a.jpg"}\n{"file_name": \n': "line 2: cannot be read as JSON",
    '["a.jpg"]\n': "line 1: found '[\"a.jpg\"]'; each line must be a JSON object",
    '\n{"category": "hat"}\n': "line 2: file_name: found None",
    '{"file_name": 3}\n': "line 1: file_name: found 3",
    '{"file_name": "a.jpg", "tags": ["x"]}\n': "line 1: column 'tags': found a list; allowed are texts",
    "[" * 100_000: "line 1: cannot be read as JSON",
}


@pytest.mark.parametrize(("text", "message"), WRONG_JSONL.items())
def test_what_is_wrong_with_a_jsonl_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_metadata("metadata.jsonl", text.encode())
    assert message in str(caught.value)


def test_what_is_wrong_with_a_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metadata.parquet"
    for table, message in (
        (pa.table({"name": ["a"]}), "found the columns name; one must be file_name"),
        (pa.table({"file_name": ["a.jpg"], "raw": [b"x"]}), "line 1: column 'raw': found a bytes"),
        (pa.table({"file_name": ["a.jpg", None]}), "line 2: file_name: found None"),
    ):
        pq.write_table(table, path)
        with pytest.raises(InputError) as caught:
            read_metadata(path.name, path.read_bytes())
        assert message in str(caught.value)
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_metadata(path.name, path.read_bytes()[:-9])


def test_two_that_concern_the_same_photo_are_refused(tmp_path: Path) -> None:
    photos = write_files(tmp_path / "one", {"metadata.csv": "file_name\n", "metadata.jsonl": "", "a.jpg": "a"})
    with pytest.raises(InputError, match=r"metadata\.csv and metadata\.jsonl: one metadata file in a folder"):
        ingest(settings_of("folder", photos), tmp_path / "raw")
    files = {"metadata.csv": "file_name\nsub/a.jpg\n", "sub/metadata.csv": "file_name\na.jpg\n", "sub/a.jpg": "a"}
    photos = write_files(tmp_path / "two", files)
    with pytest.raises(InputError, match=r"metadata\.csv, line 2: names 'sub/a\.jpg', which is a matter of sub/"):
        ingest(settings_of("folder", photos), tmp_path / "raw")


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter() -> None:
    found = read_metadata("d/metadata.csv", "\ufefffile_name,category\r\na.jpg,hat\r\n".encode())
    assert {path: row.values["category"] for path, row in found.rows.items()} == {"d/a.jpg": "hat"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, None),
        (float("nan"), None),
        ("", None),
        ("  ", None),
        (" red ", "red"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ud800", "\\ud800"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (3.0, "3"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (10**30, "1" + "0" * 30),
        (decimal.Decimal("1.50"), "1.50"),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12), "2024-02-29T12:00:00"),
    ],
)
def test_values_become_texts(value: object, text: str | None) -> None:
    assert as_text(value) == text


def test_no_attribute_can_have_the_name_of_a_fact() -> None:
    from components.validation import facts

    fixed = {"brightness", "phash", "license", "decodable", "box_left", "color_derived", "category"}
    assert fixed <= RESERVED
    assert "color" not in RESERVED
    names = {name for schema in vars(facts).values() if isinstance(schema, pa.Schema) for name in schema.names}
    assert names - {"color"} <= RESERVED
