"""Reading ahead: in order, several at a time, and never more than what memory is meant for."""

import random
import threading
import time

import pytest

from components.raw import id_of, reading
from components.raw.reading import Identified, identified
from components.sources.listing import EMPTY, Content, Entry, Listing, NotTakenError, Refused


def entries_of(count: int, size: int) -> list[Entry]:
    return [
        Entry(file_name=f"{number}.jpg", source="test", size=size, fingerprint=None, where=number)
        for number in range(count)
    ]


@pytest.mark.parametrize("threads", [0, 1, 5])
def test_results_come_in_order_with_refusals_in_their_place(threads: int) -> None:
    def read(entry: Entry) -> Content:
        time.sleep(random.random() / 500)
        if entry.where % 7 == 0:
            raise NotTakenError(EMPTY)
        return Content(b"%d" % entry.where, None)

    entries = entries_of(100, 1)
    listing = Listing("test", entries, [], read, threads)
    found = list(identified(listing, entries, lambda entry: "known" if entry.where % 3 == 0 else None))
    expected: list[Identified | Refused] = []
    for entry in entries:
        if entry.where % 3 == 0:
            expected.append(Identified(entry, "known", None, None))
        elif entry.where % 7 == 0:
            expected.append(Refused(entry.file_name, "empty"))
        else:
            expected.append(Identified(entry, id_of(b"%d" % entry.where), b"%d" % entry.where, None))
    assert found == expected


def test_reading_ahead_is_bounded_and_really_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "AHEAD_BYTES", 1000)
    lock = threading.Lock()
    now, most, begun = 0, 0, 0

    def read(_: Entry) -> Content:
        nonlocal now, most, begun
        with lock:
            now, begun = now + 1, begun + 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1
        return Content(b"x", None)

    entries = entries_of(60, 100)
    used = late = 0
    for _ in identified(Listing("test", entries, [], read, 4), entries, lambda _: None):
        used += 1
        late = max(late, begun - used) if used > 30 else 0
        assert begun - used <= 10, "1000 bytes are ten files"
    assert used == 60
    assert 2 <= most <= 4
    assert late > 0, "to the end"


def test_an_error_of_the_source_ends_the_reading() -> None:
    def read(entry: Entry) -> Content:
        if entry.where == 5:
            raise ConnectionError("the store fails")
        return Content(b"x", None)

    entries = entries_of(1000, 1)
    with pytest.raises(ConnectionError, match="the store fails"):
        list(identified(Listing("test", entries, [], read, 4), entries, lambda _: None))
