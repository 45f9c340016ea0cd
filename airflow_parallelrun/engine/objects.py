# SPDX-License-Identifier: Apache-2.0
"""What fsspec does not offer for all object stores alike: conditions, metadata, and uploads in parts.

Everything else (reading, listing, removing) goes through fsspec.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import logging
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_parallelrun.driver_errors import insist, told
from airflow_parallelrun.exceptions import NotSupportedError, StorageError
from airflow_parallelrun.filesystems import locate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow_parallelrun.filesystems import Location

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: A condition of a write: nothing has that name.
ABSENT = ""

_SAS_HOURS = 24


class CannotCopyError(NotImplementedError):
    """A store, or these credentials, cannot copy a part from another object."""


class Stat(NamedTuple):
    """What is known of an object.

    :param size: bytes
    :param etag: changes with each write
    :param metadata: texts that its writer gave it
    """

    size: int
    etag: str
    metadata: dict[str, str]


class Objects:
    """Objects of a store in which a name can be taken by exactly one of many writers.

    :param fs: fsspec's file system
    """

    #: The least bytes of a part, but for the last one.
    least_part = 1

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def write(
        self,
        path: str,
        data: bytes,
        condition: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write a whole object.

        :param condition: ABSENT, or the etag that it must have; None: whatever is there is replaced
        :raises FileExistsError: when the condition is not met
        """
        raise NotImplementedError

    def stat(self, path: str) -> Stat | None:
        """Return what is known of an object; None when there is none."""
        raise NotImplementedError

    def begin(self, path: str, metadata: Mapping[str, str]) -> Upload:
        """Begin an object that is uploaded in parts; nobody sees any of it until it is complete."""
        raise NotImplementedError

    def abandon(self, path: str) -> None:
        """Remove the parts of uploads that were begun for an object and not completed."""


class Upload:
    """An object that is uploaded in parts, which may come from several threads."""

    def put(self, number: int, data: bytes) -> Any:
        """Upload a part.

        :param number: from 1
        :return: what :meth:`complete` wants of it
        """
        raise NotImplementedError

    def copy(self, number: int, source: str, offset: int, length: int) -> Any:
        """Have the store copy a part from another object of it.

        :param source: the path of that object
        :raises CannotCopyError: when that is so
        """
        raise NotImplementedError

    def complete(self, parts: list[Any], condition: str | None) -> None:
        """Make the object of its parts, in this order.

        :param condition: as of :meth:`Objects.write`
        :raises FileExistsError: when the condition is not met
        """
        raise NotImplementedError

    def abort(self) -> None:
        """Remove what was uploaded."""


class AzureObjects(Objects):
    """Azure Blob Storage, by adlfs."""

    def write(
        self,
        path: str,
        data: bytes,
        condition: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """See :class:`Objects`."""
        with_condition = {} if condition is None else _azure_condition(condition)
        self.call(
            path,
            lambda blob: blob.upload_blob(
                io.BytesIO(data),
                length=len(data),
                overwrite=condition != ABSENT,
                metadata=dict(metadata or {}),
                **with_condition,
            ),
        )

    def stat(self, path: str) -> Stat | None:
        """See :class:`Objects`."""
        try:
            found = self.call(path, lambda blob: blob.get_blob_properties())
        except FileNotFoundError:
            return None
        return Stat(found.size, str(found.etag), dict(found.metadata or {}))

    def begin(self, path: str, metadata: Mapping[str, str]) -> Upload:
        """See :class:`Objects`. What is not committed Azure removes by itself after a week."""
        return _AzureUpload(self, path, metadata)

    def call(self, path: str, operation: Callable[[Any], Any]) -> Any:
        """Ask something of a blob.

        :raises FileExistsError: when a condition is not met
        :raises FileNotFoundError: when there is no such blob, or no such container
        """
        from azure.core.exceptions import ResourceExistsError, ResourceModifiedError, ResourceNotFoundError
        from fsspec.asyn import sync

        container, name, _ = self.fs.split_path(path)

        async def ask() -> Any:
            async with self.fs.service_client.get_blob_client(container, name) as blob:
                return await operation(blob)

        try:
            return sync(self.fs.loop, ask)
        except ResourceModifiedError as error:
            raise FileExistsError(path) from error
        except ResourceExistsError as error:
            # Its driver also makes this of any other conflict, which may be over in a moment.
            if getattr(error, "error_code", None) != "BlobAlreadyExists":
                raise
            raise FileExistsError(path) from error
        except ResourceNotFoundError as error:
            raise FileNotFoundError(path) from error

    def readable_url(self, path: str) -> str:
        """Return a URL by which the store itself can read a blob.

        :raises CannotCopyError: when the credentials cannot make one
        """
        from azure.storage.blob import BlobSasPermissions, generate_blob_sas

        container, name, _ = self.fs.split_path(path)
        client = self.fs.service_client.get_blob_client(container, name)
        if "?" in client.url:  # the connection's own signature
            return str(client.url)
        key = getattr(self.fs.service_client.credential, "account_key", None)
        if key is None:
            raise CannotCopyError("neither an account key nor a signature")
        signature = generate_blob_sas(
            client.account_name,
            container,
            name,
            account_key=key,
            permission=BlobSasPermissions(read=True),
            expiry=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=_SAS_HOURS),
        )
        return f"{client.url}?{signature}"


def _azure_condition(condition: str) -> dict[str, Any]:
    from azure.core import MatchConditions

    if condition == ABSENT:
        return {"match_condition": MatchConditions.IfMissing}
    return {"etag": condition, "match_condition": MatchConditions.IfNotModified}


class _AzureUpload(Upload):
    def __init__(self, objects: AzureObjects, path: str, metadata: Mapping[str, str]) -> None:
        self._objects = objects
        self._path = path
        self._metadata = dict(metadata)
        # What all writers of a blob have uploaded and not committed lies together, by these names.
        self._token = secrets.token_hex(8)

    def put(self, number: int, data: bytes) -> str:
        block = self._block(number)
        self._objects.call(self._path, lambda blob: blob.stage_block(block, io.BytesIO(data), len(data)))
        return block

    def copy(self, number: int, source: str, offset: int, length: int) -> str:
        from azure.core.exceptions import HttpResponseError

        block, url = self._block(number), self._objects.readable_url(source)
        try:
            self._objects.call(
                self._path,
                lambda blob: blob.stage_block_from_url(
                    block, url, source_offset=offset, source_length=length
                ),
            )
        except HttpResponseError as error:
            code = getattr(error, "error_code", None)
            if code == "APINotImplemented" or (error.status_code and error.status_code < 500):
                raise CannotCopyError(str(code)) from error
            raise
        return block

    def complete(self, parts: list[Any], condition: str | None) -> None:
        from azure.core.exceptions import HttpResponseError
        from azure.storage.blob import BlobBlock

        blocks = [BlobBlock(each) for each in parts]
        with_condition = {} if condition is None else _azure_condition(condition)
        try:
            self._objects.call(
                self._path,
                lambda blob: blob.commit_block_list(blocks, metadata=self._metadata, **with_condition),
            )
        except HttpResponseError as error:
            # A writer that commits takes away what the others have uploaded.
            if condition is not None and getattr(error, "error_code", None) == "InvalidBlockList":
                raise FileExistsError(self._path) from error
            raise

    def _block(self, number: int) -> str:
        return base64.b64encode(f"{self._token}-{number:08d}".encode()).decode()


class S3Objects(Objects):
    """S3, and what speaks its language, by s3fs."""

    least_part = 5 << 20

    def write(
        self,
        path: str,
        data: bytes,
        condition: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """See :class:`Objects`."""
        self.call("put_object", path, Body=data, Metadata=dict(metadata or {}), **_s3_condition(condition))

    def stat(self, path: str) -> Stat | None:
        """See :class:`Objects`."""
        try:
            found = self.call("head_object", path)
        except FileNotFoundError:
            return None
        return Stat(found["ContentLength"], found["ETag"], dict(found.get("Metadata") or {}))

    def begin(self, path: str, metadata: Mapping[str, str]) -> Upload:
        """See :class:`Objects`."""
        begun = self.call("create_multipart_upload", path, Metadata=dict(metadata))
        return _S3Upload(self, path, begun["UploadId"])

    def abandon(self, path: str) -> None:
        """See :class:`Objects`."""
        bucket, key, _ = self.fs.split_path(path)
        found = self.fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=key)
        for upload in found.get("Uploads") or ():
            if upload["Key"] == key:
                self.call("abort_multipart_upload", path, UploadId=upload["UploadId"])
                logger.info("removed an upload of %s that was never completed", path)

    def call(self, method: str, path: str, **values: Any) -> Any:
        """Ask something of an object.

        :raises FileExistsError: when a condition is not met
        """
        bucket, key, _ = self.fs.split_path(path)
        try:
            return self.fs.call_s3(method, Bucket=bucket, Key=key, **values)
        except OSError as error:
            answer: Any = getattr(error.__cause__, "response", None) or {}
            if answer.get("Error", {}).get("Code") == "PreconditionFailed":
                raise FileExistsError(path) from error
            raise


def _s3_condition(condition: str | None) -> dict[str, str]:
    if condition is None:
        return {}
    return {"IfNoneMatch": "*"} if condition == ABSENT else {"IfMatch": condition}


class _S3Upload(Upload):
    def __init__(self, objects: S3Objects, path: str, upload: str) -> None:
        self._objects = objects
        self._path = path
        self._upload = upload

    def put(self, number: int, data: bytes) -> dict[str, Any]:
        done = self._call("upload_part", PartNumber=number, Body=data)
        return {"PartNumber": number, "ETag": done["ETag"]}

    def copy(self, number: int, source: str, offset: int, length: int) -> dict[str, Any]:
        bucket, key, _ = self._objects.fs.split_path(source)
        done = self._call(
            "upload_part_copy",
            PartNumber=number,
            CopySource={"Bucket": bucket, "Key": key},
            CopySourceRange=f"bytes={offset}-{offset + length - 1}",
        )
        return {"PartNumber": number, "ETag": done["CopyPartResult"]["ETag"]}

    def complete(self, parts: list[Any], condition: str | None) -> None:
        self._call("complete_multipart_upload", MultipartUpload={"Parts": parts}, **_s3_condition(condition))

    def abort(self) -> None:
        # It is gone already where another process has removed it, or the reply to this was lost.
        with contextlib.suppress(FileNotFoundError):
            self._objects.call("abort_multipart_upload", self._path, UploadId=self._upload)

    def _call(self, method: str, **values: Any) -> Any:
        try:
            return self._objects.call(method, self._path, UploadId=self._upload, **values)
        except FileNotFoundError as error:
            raise StorageError(self._path, "another process has removed this upload") from error


_KINDS: dict[str, type[Objects]] = {
    **dict.fromkeys(("abfs", "abfss", "az"), AzureObjects),
    **dict.fromkeys(("s3", "s3a"), S3Objects),
}


def objects_at(url: str) -> tuple[Objects, Location]:
    """Return the objects of a store, and where in it a URL leads to.

    :raises ConfigurationError: for a connection that nobody knows
    :raises NotSupportedError: for a store that is not known to let exactly one of many writers take a name
    """
    kind = check_scheme(url)
    place = locate(url)
    return kind(place.fs), place


def check_scheme(url: str) -> type[Objects]:
    """Check that a URL is of a store that can be written to; nothing is asked of the store.

    :raises NotSupportedError: when it is not
    """
    kind = _KINDS.get(url.partition("://")[0])
    if kind is None:
        known = ", ".join(sorted(f"{scheme}://" for scheme in _KINDS))
        raise NotSupportedError(
            f"writing to {url!r}: of that store it is not known that one of many writers can take a name",
            f"Output and run directories may be in {known}, or in a folder that all nodes share.",
        )
    return kind


def patiently(url: str, question: Callable[[], T]) -> T:
    """Ask a store something, and ask again where it does not answer.

    :param url: for messages
    :raises FileNotFoundError: when there is no such object
    :raises FileExistsError: when a condition is not met
    :raises StorageError: when it does not answer however often it is asked
    """
    try:
        return insist(question, url)
    except (FileNotFoundError, FileExistsError, CannotCopyError, StorageError):
        raise
    except Exception as error:  # noqa: BLE001 - every driver raises errors of its own
        raise StorageError(url, told(error)) from None
