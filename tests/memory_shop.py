# SPDX-License-Identifier: Apache-2.0
"""A store in memory that tells what it is asked for, and may be slow, or answer with errors."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fsspec.implementations.memory import MemoryFileSystem

from airflow_parallelrun.filesystems import provided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

URL = "memory://shop@/data"


class UnavailableError(Exception):
    """What drivers make of an answer that is not 200."""

    def __init__(self, status: int, text: str = "try later") -> None:
        self.status_code = status
        super().__init__(text)


class Shop(MemoryFileSystem):
    """The store.

    :param bytes_per_s: all readers together get no more
    :param latency_s: each request takes so long at least
    """

    cachable = False

    def __init__(self, bytes_per_s: float | None = None, latency_s: float = 0.0) -> None:
        super().__init__()
        # Those of the class are everybody's.
        self.store: dict[str, Any] = {}
        self.pseudo_dirs = [""]
        self.bytes_per_s = bytes_per_s
        self.latency_s = latency_s
        self.requests: list[tuple[str, int, int]] = []
        #: Called with each path that is read, before it is.
        self.before: Callable[[str], None] = lambda path: None
        self._line = threading.Lock()

    def add(self, name: str, data: bytes) -> str:
        """Write a file, and return its URL."""
        self.pipe_file(f"/data/{name}", data)
        return f"{URL}/{name}"

    @property
    def bytes_read(self) -> int:
        """How many bytes were asked for."""
        return sum(end - start for _, start, end in self.requests)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Read, as slowly as that is."""
        self.before(path)
        data: bytes = super().cat_file(path, start, end, **kwargs)
        self.requests.append((path.rpartition("/data/")[2], start or 0, (start or 0) + len(data)))
        if self.latency_s:
            time.sleep(self.latency_s)
        if self.bytes_per_s:
            with self._line:
                time.sleep(len(data) / self.bytes_per_s)
        return data


@contextmanager
def opened(**values: Any) -> Iterator[Shop]:
    """Open a store that this process knows as the connection ``shop``."""
    shop = Shop(**values)
    with provided({("memory", "shop"): shop}):
        yield shop
