"""The object store as a second place for checkpoints: a training goes on without it, but on no other machine."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from components.errors import InputError

VARIABLE = "VITRINE_CHECKPOINTS"
"""Environment variable with the place, as in s3://bucket/prefix; keys and address are those of the AWS_ variables."""

CONNECT_TIMEOUT, READ_TIMEOUT, TRIES = 5, 60, 3
"""Seconds, seconds, and tries of one request."""

_GONE = ("NoSuchKey", "404")
_AT_ONCE = 1000
"""Objects that one request may delete."""


class StoreError(Exception):
    """The object store does not answer, or refuses."""


class ObjectStore:
    """Objects below a prefix of a bucket.

    All methods raise StoreError where the store does not do what it is asked.

    Args:
        url: s3://bucket/prefix.

    Raises:
        InputError: the url has another form.
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not bucket:
            raise InputError(
                f"{VARIABLE}: found '{url}'; give s3://BUCKET/PREFIX, or unset it to keep checkpoints here"
            )
        self.url, self._bucket, self._prefix = url.rstrip("/"), bucket, f"{prefix.strip('/')}/".lstrip("/")
        config = Config(
            retries={"mode": "standard", "total_max_attempts": TRIES},
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        with self._explained():
            self._client: Any = boto3.session.Session().client("s3", config=config)

    def put(self, name: str, content: bytes) -> None:
        """Writes an object; a reader sees the old one or the new one."""
        with self._explained():
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

    def get(self, name: str) -> bytes | None:
        """An object's bytes; None if there is none."""
        with self._explained():
            try:
                with self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"] as body:
                    content: bytes = body.read()
                    return content
            except ClientError as error:
                if error.response["Error"]["Code"] in _GONE:
                    return None
                raise

    def names(self, beginning: str) -> dict[str, datetime]:
        """Objects whose names begin so, and when each was last written."""
        found: dict[str, datetime] = {}
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + beginning):
                for item in page.get("Contents", []):
                    found[item["Key"].removeprefix(self._prefix)] = item["LastModified"]
        return found

    def delete(self, names: Sequence[str]) -> None:
        """Removes objects; those that are not there count as removed."""
        keys = [{"Key": self._prefix + name} for name in names]
        with self._explained():
            for start in range(0, len(keys), _AT_ONCE):
                self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": keys[start : start + _AT_ONCE]})

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            said = error.response["Error"]
            raise StoreError(f"{self.url}: the store refuses: {said.get('Code')}: {said.get('Message')}") from None
        # ValueError: an address or a name that botocore does not even try. OSError: a connection that breaks off.
        except (BotoCoreError, ValueError, OSError) as error:
            raise StoreError(f"{self.url}: {error}") from None


def store_from_environment() -> ObjectStore | None:
    """The store that VITRINE_CHECKPOINTS names; None where it is not set.

    Raises:
        InputError: its value has no form of s3://bucket/prefix.
    """
    url = os.environ.get(VARIABLE, "")
    return ObjectStore(url) if url else None
