# SPDX-License-Identifier: Apache-2.0
"""``first_task_creation_timeout``: how long listing the input may take before there is a first mini-batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from airflow_parallelrun.exceptions import ListingTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_parallelrun.datasets.listing import ListedFile


class ListingLimit:
    """The time that is left for listing all inputs of a run; it begins when this is made.

    *What it does not do:* interrupt a store that hangs; the clock is looked at whenever it gives a file.

    :param limit_s: seconds; None = no limit
    """

    def __init__(self, limit_s: int | None) -> None:
        self._limit_s = limit_s
        self._started = time.monotonic()
        self._listed = 0

    def watch(self, paths: Sequence[str], files: Iterator[ListedFile]) -> Iterable[ListedFile]:
        """Pass the files of an input on, as long as time is left.

        :param paths: of the input
        :raises ListingTimeoutError: when none is left
        """
        return files if self._limit_s is None else self._watch(self._limit_s, paths, files)

    def _watch(self, limit_s: int, paths: Sequence[str], files: Iterator[ListedFile]) -> Iterator[ListedFile]:
        end = self._started + limit_s
        for file in files:
            if time.monotonic() > end:
                raise ListingTimeoutError(list(paths), self._listed, limit_s)
            self._listed += 1
            yield file
