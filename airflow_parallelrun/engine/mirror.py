# SPDX-License-Identifier: Apache-2.0
"""Uploads the files of a folder that are new or have changed."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from airflow_parallelrun.engine.object_writer import upload_file
from airflow_parallelrun.engine.objects import objects_at, patiently
from airflow_parallelrun.exceptions import StorageError

_THREADS = 8
# A file that grows is written whole each time: not before it has grown so much, or so much time has passed.
_GROWTH = 1.25
_LATEST_S = 300.0
# Larger ones are uploaded in parts.
_LARGE_BYTES = 64 << 20


class _State(NamedTuple):
    size: int
    mtime_ns: int
    at: float


class Mirror:
    """A folder whose files are uploaded below a URL under the same names.

    :param folder: the folder; one that does not exist is empty
    :param url: where its files go
    """

    def __init__(self, folder: str, url: str) -> None:
        self._folder = folder
        self._url = url.rstrip("/")
        self._objects, place = objects_at(self._url)
        self._base = place.path.rstrip("/")
        self._uploaded: dict[str, _State] = {}

    def upload(self) -> None:
        """Upload every file that is new or has changed.

        :raises StorageError: when one cannot be read or written
        """
        self._upload(self._changed())

    def upload_grown(self) -> None:
        """Upload the files that have changed much, or have waited long.

        :raises StorageError: when one cannot be read or written
        """
        now = time.monotonic()
        wanted = {}
        for path, state in self._changed().items():
            before = self._uploaded.get(path)
            if before is None or state.size >= _GROWTH * before.size or now - before.at > _LATEST_S:
                wanted[path] = state
        self._upload(wanted)

    def _changed(self) -> dict[str, _State]:
        found = {}
        now = time.monotonic()
        for parent, _, files in os.walk(self._folder):
            for name in files:
                path = os.path.join(parent, name)
                try:
                    status = os.stat(path)
                except FileNotFoundError:  # the script has removed it meanwhile
                    continue
                state = _State(status.st_size, status.st_mtime_ns, now)
                before = self._uploaded.get(path)
                if before is None or before[:2] != state[:2]:
                    found[path] = state
        return found

    def _upload(self, wanted: dict[str, _State]) -> None:
        if not wanted:
            return
        with ThreadPoolExecutor(min(_THREADS, len(wanted)), "upload") as threads:
            for _ in threads.map(self._upload_one, wanted, wanted.values()):
                continue

    def _upload_one(self, path: str, state: _State) -> None:
        name = os.path.relpath(path, self._folder)
        url = f"{self._url}/{name}"
        try:
            if state.size > _LARGE_BYTES:
                upload_file(path, url)
            else:
                with open(path, "rb") as file:
                    data = file.read(state.size)
                patiently(url, lambda: self._objects.write(f"{self._base}/{name}", data))
        except FileNotFoundError:
            if os.path.exists(path):
                raise StorageError(url, "there is no such container or bucket") from None
            return  # the script has removed it meanwhile
        except OSError as error:
            raise StorageError(path, error.strerror or str(error)) from error
        self._uploaded[path] = state
