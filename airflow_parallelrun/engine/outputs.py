# SPDX-License-Identifier: Apache-2.0
"""The output folder of a run: a folder of the file system, see ``ownership.py``, or one in an object store.

There a result carries whose it is and which verdict it belongs to in its metadata, and gets its name by one
conditional request.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO, cast

from airflow_parallelrun.engine import ownership
from airflow_parallelrun.engine.object_store import ObjectStore
from airflow_parallelrun.engine.object_writer import ObjectWriter
from airflow_parallelrun.engine.objects import ABSENT, Stat, patiently
from airflow_parallelrun.exceptions import OutputExistsError, OutputOwnedError, StorageError
from airflow_parallelrun.filesystems import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_parallelrun.engine.plan import Plan

logger = logging.getLogger(__name__)

_OWNER, _SEAL = "parallelrunowner", "parallelrunseal"


class Output:
    """A folder of the file system that gets the results of a run.

    :param folder: its path
    :param owner: who the run is
    """

    def __init__(self, folder: str, owner: str) -> None:
        self.folder = folder
        self.owner = owner

    def path(self, name: str) -> str:
        """Return the path, or the URL, of a result."""
        return os.path.join(self.folder, name)

    def take(self, results: Sequence[str], anew: bool = True) -> None:
        """Take the folder; see ``ownership.take``."""
        ownership.take(self.folder, self.owner, results, anew)

    def is_published(self, name: str, seal: str = "") -> bool:
        """Tell whether a result is there, and is what this run published.

        :param seal: the verdict that it has to be of, where results carry it; empty: any
        """
        return not seal and ownership.is_published(self.folder, name)

    @contextlib.contextmanager
    def publishing(self, name: str, seal: str, total: int = 0) -> Iterator[BinaryIO]:
        """Give a new file to write a result to, and publish it when the block ends without an error.

        :param seal: the verdict that it is of
        :param total: about how many bytes it will have
        :raises OutputExistsError: when a file of another origin has that name
        :raises StorageError: when it cannot be written
        """
        with ownership.publishing(self.folder, name) as file:
            yield file

    def retract(self, name: str) -> None:
        """Remove a result that this run published before; see ``ownership.retract``."""
        ownership.retract(self.folder, name)

    def read(self, name: str) -> bytes:
        """Return the content of a result.

        :raises FileNotFoundError: when there is none
        """
        with open(self.path(name), "rb") as file:
            return file.read()


class ObjectOutput(Output):
    """An output folder in an object store."""

    def __init__(self, folder: str, owner: str) -> None:
        super().__init__(folder.rstrip("/"), owner)
        self._store = ObjectStore(self.folder)
        self._mark = hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def path(self, name: str) -> str:
        """See :class:`Output`."""
        return self._store.path(name)

    def take(self, results: Sequence[str], anew: bool = True) -> None:
        """See :class:`Output`."""
        own = ObjectStore(ownership.folder(self.folder))
        name = ownership.OWNER
        if not own.exists(name):
            for result in results:
                if self._stat(result) is not None:
                    raise OutputExistsError(self.path(result))
        record = {"format_version": 1, "owner": self.owner, "token": secrets.token_hex(8)}
        if not own.create_exclusive(name, json.dumps(record).encode()):
            other = json.loads(own.read(name))["owner"]
            if other != self.owner:
                raise OutputOwnedError(self.folder, other)
        for result in results:
            self._check_ours(result, self._stat(result))
        if anew:
            self.retract(ownership.RESULT)

    def is_published(self, name: str, seal: str = "") -> bool:
        """See :class:`Output`."""
        found = self._stat(name)
        return self._is_ours(found) and (
            not seal or (found is not None and found.metadata.get(_SEAL) == seal)
        )

    @contextlib.contextmanager
    def publishing(self, name: str, seal: str, total: int = 0) -> Iterator[BinaryIO]:
        """See :class:`Output`; what it gives is an ``ObjectWriter``."""
        before = self._stat(name)
        self._check_ours(name, before)
        metadata = {_OWNER: self._mark, _SEAL: seal}
        key = self._store.key(name)
        writer = ObjectWriter(self._store.objects, self.path(name), key, metadata, total)
        try:
            yield cast("BinaryIO", writer)
            try:
                writer.finish(ABSENT if before is None else before.etag)
            except (FileExistsError, StorageError) as error:
                # The reply to a request that has succeeded may have been lost; or somebody else was faster.
                if not self.is_published(name, seal):
                    if isinstance(error, StorageError):
                        raise
                    raise OutputExistsError(self.path(name)) from None
        except BaseException:
            writer.abort()
            raise
        writer.close_threads()
        logger.info("published %s", self.path(name))

    def retract(self, name: str) -> None:
        """See :class:`Output`."""
        found = self._stat(name)
        self._check_ours(name, found)
        if found is not None:
            with contextlib.suppress(FileNotFoundError):
                patiently(self.path(name), lambda: self._store.objects.fs.rm_file(self._store.key(name)))

    def read(self, name: str) -> bytes:
        """See :class:`Output`."""
        return self._store.read(name)

    def _stat(self, name: str) -> Stat | None:
        return patiently(self.path(name), lambda: self._store.objects.stat(self._store.key(name)))

    def _is_ours(self, found: Stat | None) -> bool:
        return found is not None and found.metadata.get(_OWNER) == self._mark

    def _check_ours(self, name: str, found: Stat | None) -> None:
        if found is not None and not self._is_ours(found):
            raise OutputExistsError(self.path(name))


def output_at(folder: str, owner: str) -> Output:
    """Return an output folder.

    :param folder: an absolute path, or a URL
    :param owner: who the run is
    """
    return ObjectOutput(folder, owner) if is_remote(folder) else Output(folder, owner)


def output_of(plan: Plan) -> Output | None:
    """Return the output folder of a run; None where there is none."""
    return None if plan.output is None else output_at(plan.output, plan.owner)


def seal_of(plan: Plan, round_: int) -> str:
    """Return what a result of a verdict carries."""
    return f"{plan.plan_id}-{round_}"
