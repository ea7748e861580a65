"""Tells people what happened to a model, at the addresses in VITRINE_NOTIFY."""

import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import Literal

from apprise import Apprise, NotifyBase, NotifyType

ADDRESSES = "VITRINE_NOTIFY"
"""Variable with one or several Apprise URLs, apart by spaces or commas. They hold passwords: none is ever shown."""

THREAD = "vitrine-notify"
"""Name of the threads that send."""

Event = Literal["promoted", "rolled back", "rejected", "failed", "override", "approval wanted"]

KINDS: dict[Event, NotifyType] = {
    "promoted": NotifyType.SUCCESS,
    "rolled back": NotifyType.WARNING,
    "rejected": NotifyType.WARNING,
    "failed": NotifyType.FAILURE,
    "override": NotifyType.WARNING,
    "approval wanted": NotifyType.INFO,
}


def notify(event: Event, title: str, body: str, *, timeout: float = 20) -> bool:
    """Sends a message to every address, all at once. Never raises: who is told must not decide what happens.

    Args:
        title: one line; the event is put before it.
        body: plain text.
        timeout: seconds after which nobody waits for an address any longer.

    Returns:
        Whether all addresses took it, which they do if there is none. If not, stderr says which did not.
    """
    # Their logs show addresses: Apprise's malformed ones as errors and others below, urllib3's the path.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    logging.getLogger("urllib3.connectionpool").addFilter(_not_ours)
    services, problems = _services(os.environ.get(ADDRESSES, ""))
    problems += _send_all(services, f"[{event}] {title}", body, KINDS[event], timeout)
    for problem in problems:
        print(f"notification '{event}' was not sent: {ADDRESSES}: {problem}", file=sys.stderr, flush=True)
    return not problems


def _not_ours(record: logging.LogRecord) -> bool:
    """Whether a record of a library's log comes from elsewhere than from sending a notification."""
    return record.threadName != THREAD


def _services(addresses: str) -> tuple[list[NotifyBase], list[str]]:
    """The services behind the addresses, and what is wrong with addresses that name none."""
    services, problems = [], []
    for number, address in enumerate(addresses.split(), 1):
        apprise = Apprise()
        with suppress(Exception):
            apprise.add(address.strip(","))
        if not len(apprise):
            problems.append(f"number {number} is no Apprise URL")
        services += [service for service in apprise if isinstance(service, NotifyBase)]
    return services, problems


def _send_all(services: list[NotifyBase], title: str, body: str, kind: NotifyType, timeout: float) -> list[str]:
    """Sends, in a thread per service; returns what went wrong."""
    sent: dict[int, bool] = {}

    def send(number: int, service: NotifyBase) -> None:
        alone = Apprise()
        alone.add(service)
        try:
            sent[number] = bool(alone.notify(body=body, title=title, notify_type=kind))
        except Exception:  # which may show the address
            sent[number] = False

    # Not the pool that Apprise has for several: that one keeps the process from ending while a service hangs.
    threads = [threading.Thread(target=send, args=item, daemon=True, name=THREAD) for item in enumerate(services, 1)]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [
        f"service {number} ({service.service_name}) {'refused it' if number in sent else 'gave no answer in time'}"
        for number, service in enumerate(services, 1)
        if not sent.get(number, False)
    ]
