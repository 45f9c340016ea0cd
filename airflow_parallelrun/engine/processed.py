# SPDX-License-Identifier: Apache-2.0
"""Which files the runs of a step have processed, for inputs of which only new files are wanted.

A file is known by a digest of its path, its size, and its tag or time of change. ``runs/`` has an object for
each verdict that is a success, ``merged/`` such as stand for several others, so that few have to be read.
Each is written once, a line of JSON and the sorted digests; none is ever removed. An empty one in ``void/``
says that one in ``runs/`` holds no longer.

*Known limitation*: two runs of the step at the same time both see the same files as new.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_parallelrun.engine.ledger import SUCCEEDED
from airflow_parallelrun.engine.object_store import store_at
from airflow_parallelrun.engine.plan import PlanItems
from airflow_parallelrun.exceptions import EmptyInputError, StorageError
from airflow_parallelrun.worker.protocol import OK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np

    from airflow_parallelrun.datasets import ListedFile
    from airflow_parallelrun.engine.ledger import Ledger
    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.store import Store

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
RUNS, MERGED, VOID = "runs", "merged", "void"

# Sixteen bytes: of 10 million files known and 1 million listed, one in 10^25 runs would take two for one.
_DIGEST_BYTES = 16
_TYPE = f"S{_DIGEST_BYTES}"
# Merged at once; so many others of the same level stay as they are, to be told apart by run.
_MERGED_AT_ONCE = 32
_LISTED_AT_ONCE = 4096
_READ_AHEAD = 1024


class Processed:
    """What the runs of a step have processed.

    :param digests: sorted
    """

    def __init__(self, digests: np.ndarray[Any, Any] | None = None) -> None:
        self._digests = digests
        #: Files that were left out because they are known.
        self.left_out = 0

    def new(self, files: Iterable[ListedFile]) -> Iterator[ListedFile]:
        """Yield the files that are not known.

        :raises EmptyInputError: when there are none at all, and never were
        """
        if self._digests is None or not len(self._digests):
            yield from files
            return
        rest = iter(files)
        with contextlib.suppress(EmptyInputError):  # they may have been taken away when they were processed
            while block := list(islice(rest, _LISTED_AT_ONCE)):
                for file, is_known in zip(block, self._are_known(block), strict=True):
                    if is_known:
                        self.left_out += 1
                    else:
                        yield file

    def _are_known(self, files: Sequence[ListedFile]) -> list[bool]:
        import numpy as np

        assert self._digests is not None
        asked = np.frombuffer(b"".join([digest_of(*file) for file in files]), _TYPE)
        places = np.searchsorted(self._digests, asked)
        places[places == len(self._digests)] = 0
        found: list[bool] = (self._digests[places] == asked).tolist()
        return found


def digest_of(path: str, size: int, mtime_ns: int | None, etag: str | None = None) -> bytes:
    """Return what a file is known by."""
    text = f"{path}\0{size}\0{mtime_ns if etag is None else etag}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


def read(folder: str, owner: str) -> Processed:
    """Return what earlier runs of a step have processed.

    :param folder: of the step
    :param owner: the run that asks: what it has processed itself before it was cleared does not count
    :raises StorageError: when that cannot be read, or was written by a newer version
    """
    store = store_at(folder)
    contents = [digests for name, _, digests in _read_live(store) if not _is_of(name, owner)]
    return Processed(_joined(contents)) if contents else Processed()


def record(plan: Plan, ledger: Ledger, round_: int) -> None:
    """Leave word of what a verdict that is a success has processed; repeated, it is the same.

    Of a mini-batch that failed or came back short nothing counts as processed, except for the items of which
    it is known that they succeeded.

    :raises StorageError: when it cannot be written
    """
    if plan.processed is None:
        return
    import numpy as np

    done, left = _digests(plan, ledger)
    # Of a file that two inputs have both must have succeeded.
    digests = np.setdiff1d(np.frombuffer(bytes(done), _TYPE), np.frombuffer(bytes(left), _TYPE))
    if not len(digests):
        return
    store = store_at(plan.processed)
    stamp = plan.run_dir.rpartition("/")[2]
    name = f"{RUNS}/{stamp}-{round_}-{_mark(plan.owner)}"
    _write(store, name, digests, run=plan.run)
    logger.info("%d files will not be new to the next run", len(digests))
    try:
        _merge(store)
    except StorageError as error:  # the next one does it
        logger.warning("records of processed files are not merged: %s", error)


def take_back(folder: str, owner: str) -> None:
    """Take back what a run has left word of: it is made anew, and its output goes.

    :raises StorageError: when that cannot be written
    """
    store = store_at(folder)
    for name in store.names(RUNS):
        if _is_of(f"{RUNS}/{name}", owner):
            store.put(f"{VOID}/{name}", b"")


def _digests(plan: Plan, ledger: Ledger) -> tuple[bytearray, bytearray]:
    """Return the digests of what has succeeded, and of what has not, of the inputs that it matters for."""
    numbers = {place for place, document in enumerate(plan.inputs) if document.get("only_new")}
    parts = {record.line.ordinal: record.line.parts for record in ledger.problems() if record.line.parts}
    done, left = bytearray(), bytearray()
    with contextlib.closing(PlanItems(plan, _READ_AHEAD)) as items:
        for ordinal in range(plan.mini_batches):
            number, *files = items.line(ordinal)
            if number not in numbers:
                continue
            digests = [digest_of(*file) for file in files]
            succeeded = ledger.state(ordinal) == SUCCEEDED
            flags = [succeeded] * len(digests)
            for part in parts.get(ordinal, ()):
                flags[part.first : part.first + part.items] = [part.status == OK] * part.items
            for digest, is_done in zip(digests, flags, strict=True):
                (done if is_done else left).extend(digest)
    return done, left


def _read_live(store: Store) -> Iterator[tuple[str, list[str], bytes]]:
    """Yield every object that no other one stands for: its name, which ones it stands for, its digests."""
    covered = {f"{RUNS}/{name}" for name in store.names(VOID)}
    for name in _listed(store):
        if name not in covered:
            covers, digests = _read(store, name)
            covered.update(covers)
            yield name, covers, digests


def _listed(store: Store) -> list[str]:
    """Return the names of all objects, those before others that may stand for them."""
    merged = sorted(store.names(MERGED), key=lambda name: (-_level(name), name))
    return [f"{MERGED}/{name}" for name in merged] + [f"{RUNS}/{name}" for name in store.names(RUNS)]


def _level(name: str) -> int:
    return int(name.partition("-")[0])


def _merge(store: Store) -> None:
    """Merge the oldest objects of a level where there are many."""
    counts = Counter(_level(name) for name in store.names(MERGED))
    counts[0] = len(store.names(RUNS)) - len(store.names(VOID))
    if all(counts[n] - counts[n + 1] * _MERGED_AT_ONCE < 2 * _MERGED_AT_ONCE for n in list(counts)):
        return  # without a look into them
    live: dict[int, dict[str, tuple[list[str], bytes]]] = {}
    for name, covers, digests in _read_live(store):
        folder, _, own = name.partition("/")
        live.setdefault(_level(own) if folder == MERGED else 0, {})[name] = covers, digests
    for level, found in live.items():
        if len(found) < 2 * _MERGED_AT_ONCE:
            continue
        names = sorted(found)[:_MERGED_AT_ONCE]
        mark = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
        oldest = names[0].rpartition("/")[2].removeprefix(f"{level}-")
        covers = sorted({*names, *(name for each in names for name in found[each][0])})
        joined = _joined([found[each][1] for each in names])
        _write(store, f"{MERGED}/{level + 1}-{oldest[:16]}-{mark}", joined, covers=covers)


def _joined(contents: Sequence[bytes]) -> np.ndarray[Any, Any]:
    import numpy as np

    digests = np.concatenate([np.frombuffer(content, _TYPE) for content in contents])
    digests.sort(kind="stable")  # what is sorted in runs, as this is, in a tenth of the time
    return digests


def _write(store: Store, name: str, digests: np.ndarray[Any, Any], **about: Any) -> None:
    header = {"format_version": FORMAT_VERSION, **about, "files": len(digests)}
    store.put(name, json.dumps(header).encode() + b"\n", digests.tobytes())


def _read(store: Store, name: str) -> tuple[list[str], bytes]:
    """Return which objects this one stands for, and its digests."""
    header, _, digests = store.read(name).partition(b"\n")
    about = json.loads(header)
    if about["format_version"] != FORMAT_VERSION or len(digests) != about["files"] * _DIGEST_BYTES:
        raise StorageError(
            store.path(name),
            f"is no list of {about['files']} files in format_version {FORMAT_VERSION}; was it cut off, or "
            "written by a newer version?",
        )
    return list(about.get("covers", ())), digests


def _is_of(name: str, owner: str) -> bool:
    return name.startswith(f"{RUNS}/") and name.endswith(f"-{_mark(owner)}")


def _mark(owner: str) -> str:
    return hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()[:12]
