# SPDX-License-Identifier: Apache-2.0
"""Lists what lies in an object store, or in anything else that fsspec can reach."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow_parallelrun.driver_errors import told
from airflow_parallelrun.exceptions import InputNotFoundError, InputUnreadableError, ParallelRunError
from airflow_parallelrun.filesystems import locate

from .listing import RUN_DIRECTORIES, ListedFile, split_glob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

T = TypeVar("T")

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)
_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "modified")
_TAGS = ("ETag", "etag", "e_tag")


def list_remote(url: str) -> Iterator[ListedFile]:
    """List a URL by the rules of ``list_files``; nothing comes from a cache.

    :return: sorted by URL; the whole listing is in memory
    """
    place = _ask(url, lambda: locate(url))
    # With the slash adlfs takes an object that marks the folder for a file.
    path = place.path.rstrip("/") or place.path
    found = _ask(url, lambda: _find(place.fs, path, url))
    listed = [ListedFile(place.url(name), *state_of(info)) for name, info in found.items()]
    return iter(sorted(listed, key=lambda file: file.path))


def _find(fs: Any, path: str, url: str) -> dict[str, Any]:
    """Every file of a file, a folder or a glob, by its path in the store."""
    try:
        info = fs.info(path)
    except FileNotFoundError:
        folder, pattern = split_glob(path)
        if pattern is None:
            raise InputNotFoundError(url) from None
        found = fs.glob(path, detail=True)
    else:
        if info["type"] == "file":
            return {path: info}
        folder, found = path, fs.find(path, detail=True)
    return {name: info for name, info in found.items() if _counts(name, info, folder)}


def _counts(name: str, info: Mapping[str, Any], folder: str) -> bool:
    # A name that ends with a slash is how some stores mark an empty folder.
    below = name.removeprefix(folder)
    return info.get("type") == "file" and not name.endswith("/") and f"/{RUN_DIRECTORIES}/" not in f"/{below}"


def _ask(url: str, question: Callable[[], T]) -> T:
    try:
        return question()
    except ParallelRunError:
        raise
    except FileNotFoundError as error:
        raise InputNotFoundError(url) from error
    except Exception as error:
        # Every store's driver raises errors of its own.
        raise InputUnreadableError(url, told(error)) from error


def state_of(info: Mapping[str, Any]) -> tuple[int, int | None, str | None]:
    """Return size, time of change and tag of a file, as far as its store tells."""
    return int(info.get("size") or 0), _mtime_ns(info), _etag(info)


def _mtime_ns(info: Mapping[str, Any]) -> int | None:
    value = next((info[key] for key in _CHANGED if info.get(key) is not None), None)
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return (aware - _EPOCH) // _MICROSECOND * 1000
    return int(value * 1_000_000_000) if isinstance(value, (int, float)) else None


def _etag(info: Mapping[str, Any]) -> str | None:
    value = next((info[key] for key in _TAGS if info.get(key)), None)
    return None if value is None else str(value)
