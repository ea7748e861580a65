"""The object store's keys: made at the first start, kept in a file that only its owner reads."""

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import InputError
from infra.settings import ServiceSettings

OWNER_ONLY = 0o600


@dataclass(frozen=True)
class Credentials:
    """A pair of S3 keys with all rights on the local object store."""

    access_key: str
    secret_key: str = field(repr=False)


def credentials_file(settings: ServiceSettings) -> Path:
    return settings.state_dir / "credentials.env"


def make_state_dir(settings: ServiceSettings) -> Path:
    """The state directory, with mode 0700: a stage that ran before may have made it with another."""
    settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.state_dir.chmod(0o700)
    return settings.state_dir


def load_credentials(settings: ServiceSettings) -> Credentials:
    """Reads the keys; makes them if there are none yet. Safe against a second process doing the same.

    Raises:
        InputError: the file is readable by others, or does not hold the two keys.
    """
    path = credentials_file(settings)
    if not path.exists():
        _create(path, make_state_dir(settings))
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise InputError(f"{path}: has mode {mode:04o}, so that others can read the keys; run: chmod 600 {path}")
    return _parse(path)


def write_private(path: Path, text: str) -> None:
    """Writes a file that is never, not even for a moment, readable by others."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _create(path: Path, state_dir: Path) -> None:
    text = (
        "# Keys of the local object store, made at its first start.\n"
        f"AWS_ACCESS_KEY_ID={secrets.token_hex(10).upper()}\n"
        f"AWS_SECRET_ACCESS_KEY={secrets.token_urlsafe(30)}\n"
    )
    candidate = state_dir / f".{path.name}.{secrets.token_hex(4)}"
    write_private(candidate, text)
    try:
        # Unlike a rename, a link never replaces the keys that another process has just made.
        path.hardlink_to(candidate)
    except FileExistsError:
        pass
    finally:
        candidate.unlink()


def _parse(path: Path) -> Credentials:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    access_key, secret_key = found.get("AWS_ACCESS_KEY_ID"), found.get("AWS_SECRET_ACCESS_KEY")
    if not access_key or not secret_key:
        raise InputError(
            f"{path}: must hold AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, found {sorted(found)}; "
            "remove it after `make down`, and `make up` makes new keys"
        )
    return Credentials(access_key, secret_key)
