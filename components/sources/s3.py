"""Photos below a prefix of a bucket, on any store that speaks S3."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import boto3.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)

from components.errors import InputError
from components.progress import Progress
from components.settings import DataSettings, S3Settings
from components.sources.convention import File, by_convention
from components.sources.listing import (
    CHANGED,
    SAME_NAME,
    UNREADABLE,
    VANISHED,
    Content,
    Entry,
    Listing,
    NotTakenError,
    Refused,
    bounded,
)
from components.sources.names import inner, shown

THREADS = 16
TRIES = 5
"""Of one request, where the network or the store fails; botocore waits in between, longer each time."""

CONNECT_TIMEOUT, READ_TIMEOUT = 10, 60
"""Seconds."""

_GONE = ("NoSuchKey", "404")
_REPLACED = ("PreconditionFailed", "412")


@contextmanager
def opened(settings: DataSettings) -> Iterator[Listing]:
    """The prefix data.s3.url.

    Raises:
        InputError: the store refuses, there is no such bucket, there are no keys, or metadata cannot be used.
    """
    assert settings.s3.url is not None  # source 's3' without one is refused with the settings
    bucket, _, prefix = settings.s3.url.removeprefix("s3://").partition("/")
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    with _explained(settings.s3):
        client = make_client(settings.s3)
    try:
        with _explained(settings.s3):
            listing = _listing(client, bucket, prefix, settings)
        yield listing
    finally:
        client.close()


def _listing(client: Any, bucket: str, prefix: str, settings: DataSettings) -> Listing:
    files, refused = _listed(client, bucket, prefix)

    def read(entry: Entry) -> Content:
        with _explained(settings.s3):
            image = bounded(_download(client, bucket, entry.where, settings.file_bytes), settings.file_bytes)
        return Content(image, entry.fingerprint)

    def read_metadata(file: File, limit: int) -> bytes:
        try:
            return _download(client, bucket, file.where, limit)
        except NotTakenError as error:
            raise InputError(f"{settings.s3.url}: {shown(file.name)}: cannot be read: {error}") from None

    entries, others = by_convention(files, settings, read_metadata)
    return Listing(f"s3 {client.meta.endpoint_url} {bucket}/{prefix}", entries, [*refused, *others], read, THREADS)


def make_client(settings: S3Settings) -> Any:
    """A client with the keys of the profile, or of the environment."""
    session = boto3.session.Session(profile_name=settings.profile)
    config = Config(
        max_pool_connections=THREADS,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        connect_timeout=CONNECT_TIMEOUT,
        read_timeout=READ_TIMEOUT,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return session.client("s3", endpoint_url=settings.endpoint, config=config)


def _listed(client: Any, bucket: str, prefix: str) -> tuple[list[File], list[Refused]]:
    """All objects below the prefix, by name."""
    files: dict[str, File] = {}
    refused: list[Refused] = []
    progress = Progress(f"ingest: objects of s3://{bucket}/{prefix} listed")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            progress.add()
            key = item["Key"]
            if key.endswith("/") and item["Size"] == 0:
                continue  # the mark of a folder, as consoles make it
            try:
                name = inner(key.removeprefix(prefix))
            except NotTakenError as error:
                refused.append(Refused(shown(key.removeprefix(prefix)), str(error)))
                continue
            if name in files:
                refused.append(Refused(shown(key.removeprefix(prefix)), SAME_NAME))
                continue
            etag = item["ETag"].strip('"')
            files[name] = File(name, item["Size"], etag, (key, etag), etag)
    return [files[name] for name in sorted(files)], refused


def _download(client: Any, bucket: str, where: tuple[str, str], limit: int) -> bytes:
    """At most limit + 1 bytes of an object, if it is still the one that was listed.

    Raises:
        NotTakenError: it is not, or may not be read.
    """
    key, etag = where
    try:
        with client.get_object(Bucket=bucket, Key=key, IfMatch=f'"{etag}"')["Body"] as body:
            content: bytes = body.read(limit + 1)
            return content
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _GONE:
            raise NotTakenError(VANISHED) from None
        if code in _REPLACED:
            raise NotTakenError(CHANGED) from None
        if code in ("AccessDenied", "403", "InvalidObjectState"):
            raise NotTakenError(f"{UNREADABLE}: {code}") from None
        raise


@contextmanager
def _explained(settings: S3Settings) -> Iterator[None]:
    """Turns what only the user can mend into InputError; a network that fails may work the next time."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise InputError(
            f"{settings.url}: no keys: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a profile of "
            "~/.aws/credentials in data.s3.profile (params.yaml)"
        ) from None
    except ClientError as error:
        said = error.response["Error"]
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500) >= 500:
            raise ConnectionError(f"{settings.url}: the store fails: {said}") from None
        raise InputError(
            f"{settings.url}: the store refuses: {said.get('Code')}: {said.get('Message')}; check the bucket's name, "
            "data.s3.endpoint and the keys (params.yaml)"
        ) from None
    except BotoCoreError as error:
        raise ConnectionError(f"{settings.url}: {error}") from None
