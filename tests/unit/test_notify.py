"""Notifications to real local HTTP servers."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from threading import Thread

import pytest

from components.notify import ADDRESSES, KINDS, notify
from tests.receiver import SECRET, Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a service that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"json://user:{SECRET}@127.0.0.1:{server.getsockname()[1]}"


def test_every_address_gets_the_event_the_title_and_the_body(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ADDRESSES, f" {receiver.address}/a, \n {receiver.address}/b ")
    assert notify("promoted", "vitrine-gan 4", "better by 1.5\nthan 3")
    assert receiver.paths == {f"/{SECRET}/a", f"/{SECRET}/b"}
    assert len(receiver.messages) == 2
    for message in receiver.messages:
        assert (message["title"], message["type"]) == ("[promoted] vitrine-gan 4", "success")
        assert message["message"] == "better by 1.5\nthan 3"
    assert capfd.readouterr() == ("", "")


def test_every_event_has_a_kind(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESSES, receiver.address)
    for event in KINDS:
        assert notify(event, "a", "b")
    assert [message["type"] for message in receiver.messages] == [kind.value for kind in KINDS.values()]


@pytest.mark.parametrize("given", [None, "", "  \n"])
def test_without_addresses_nothing_is_sent_and_nothing_is_wrong(
    given: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(ADDRESSES, raising=False)
    if given is not None:
        monkeypatch.setenv(ADDRESSES, given)
    assert notify("failed", "a", "b")
    assert capfd.readouterr() == ("", "")


def test_what_goes_wrong_is_told_without_addresses_and_the_others_are_told(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with Receiver() as refusing, socket.create_server(("127.0.0.1", 0)) as closed:
        refusing.status = 500
        Thread(target=refusing.serve_forever, args=(0.05,), daemon=True).start()
        nobody = f"json://user:{SECRET}@127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        garbage = f"no-such-service://{SECRET} {SECRET}"
        monkeypatch.setenv(ADDRESSES, f"{garbage} {refusing.address} {nobody} {receiver.address}")
        assert not notify("rolled back", "vitrine-gan 3", "as asked")
        refusing.shutdown()
    assert receiver.titles == ["[rolled back] vitrine-gan 3"]
    said = capfd.readouterr()
    lines = said.err.splitlines()
    assert [line.split(f"{ADDRESSES}: ")[1] for line in lines] == [
        "number 1 is no Apprise URL",
        "number 2 is no Apprise URL",
        "service 1 (JSON) refused it",
        "service 2 (JSON) refused it",
    ]
    shown = said.out + said.err + caplog.text
    assert SECRET not in shown
    assert "127.0.0.1" not in shown
    # Whoever else uses that library is still heard.
    logging.getLogger("urllib3.connectionpool").warning("pool is full")
    assert "pool is full" in caplog.text


def test_a_service_that_hangs_is_not_waited_for(
    receiver: Receiver, silent: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ADDRESSES, " ".join([f"{silent}?rto=60"] * 8 + [receiver.address]))
    started = time.monotonic()
    assert not notify("approval wanted", "a", "b", timeout=2)
    assert time.monotonic() - started < 8  # of all together, not of each
    assert len(receiver.messages) == 1
    assert capfd.readouterr().err.count("gave no answer in time") == 8


def test_a_process_ends_while_a_service_hangs(silent: str) -> None:
    program = "from components.notify import notify; notify('failed', 'a', 'b', timeout=0.5)"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, ADDRESSES: f"{silent}?rto=300 {silent}?rto=300"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert time.monotonic() - started < 100
    assert SECRET not in done.stdout + done.stderr
