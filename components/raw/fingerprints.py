"""Which file is which photo, without reading it: a cache of this machine, no part of the data.

It lies below VITRINE_CACHE, or .vitrine/cache. Losing it costs the time to read the source once.
"""

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from components.files import cache_folder, written_whole

KEY_BYTES, ID_BYTES, DIGEST_BYTES = 16, 32, 32


def cache_file(place: str) -> Path:
    """Where the fingerprints of a source are kept.

    Args:
        place: tells the sources of this machine apart.
    """
    folder = cache_folder("fingerprints")
    return folder / f"{hashlib.sha256(place.encode('utf-8', 'backslashreplace')).hexdigest()[:16]}.bin"


def key_of(file_name: str, fingerprint: str) -> bytes:
    return hashlib.sha256(f"{file_name}\0{fingerprint}".encode()).digest()[:KEY_BYTES]


def load(place: str) -> dict[bytes, str]:
    """Id by key; empty where there is no cache, or a damaged one."""
    try:
        content = cache_file(place).read_bytes()
    except OSError:
        return {}
    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return {}
    width = KEY_BYTES + ID_BYTES
    return {body[at : at + KEY_BYTES]: body[at + KEY_BYTES : at + width].hex() for at in range(0, len(body), width)}


def save(place: str, ids: Mapping[bytes, str]) -> None:
    """Writes the cache, whole, if it changed; where it cannot be written, says so and goes on."""
    body = b"".join(key + bytes.fromhex(ids[key]) for key in sorted(ids))
    content = hashlib.sha256(body).digest() + body
    path = cache_file(place)
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        with written_whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        print(f"{path}: cannot be written ({error.strerror}); the next ingest reads all files again", file=sys.stderr)
