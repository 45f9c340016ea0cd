# SPDX-License-Identifier: Apache-2.0
"""The rows of a run in an object store, read in blocks; the next ones are fetched meanwhile."""

from __future__ import annotations

from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, Self

from airflow_parallelrun.engine import names
from airflow_parallelrun.exceptions import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from concurrent.futures import Future

    from airflow_parallelrun.engine.journal import Extent
    from airflow_parallelrun.engine.ledger import Span
    from airflow_parallelrun.engine.object_store import ObjectStore

BLOCK_BYTES = 2 << 20
# Blocks that are fetched at once, and those that are kept: neighbouring mini-batches may lie in as many
# objects as there are nodes.
_AT_ONCE = 16
_KEPT = 64
# Pieces of blocks that are looked at ahead.
_AHEAD = 10_000


class _Piece(NamedTuple):
    segment: str
    block: int
    start: int
    end: int


class ObjectSegments:
    """The segments of a run in an object store.

    A store keeps what it has taken, or says that it has not: that an object is long enough is all that is
    asked of it, and the rows are not read for their checksums.

    :param store: the run directory
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._sizes = {
            f"{names.SEGMENTS}/{entry.name}": entry.size for entry in store.entries(names.SEGMENTS)
        }
        self._threads = ThreadPoolExecutor(_AT_ONCE, "segments")
        self._blocks: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Forget what was fetched."""
        self._threads.shutdown(cancel_futures=True)
        self._blocks.clear()

    def are_intact(self, extents: Iterable[Extent]) -> bool:
        """Tell whether the objects of these extents are there, and long enough."""
        return all(self._sizes.get(each.segment, -1) >= each.offset + each.length for each in extents)

    def stream(self, spans: Iterable[Span]) -> Iterator[bytes]:
        """Yield the bytes of spans, one behind the other.

        :raises StorageError: when they cannot be read
        """
        pieces = _pieces(spans)
        ahead: deque[_Piece] = deque()
        wanted: dict[tuple[str, int], int] = {}
        more = True
        while more or ahead:
            while more and len(wanted) < _AT_ONCE and len(ahead) < _AHEAD:
                piece = next(pieces, None)
                if piece is None:
                    more = False
                    break
                key = piece.segment, piece.block
                ahead.append(piece)
                wanted[key] = wanted.get(key, 0) + 1
                self._fetch(key)
            if not ahead:
                return
            piece = ahead.popleft()
            key = piece.segment, piece.block
            data = self._blocks[key].result()[piece.start : piece.end]
            if len(data) != piece.end - piece.start:
                raise StorageError(self._store.path(piece.segment), "has lost rows since they were checked")
            wanted[key] -= 1
            if not wanted[key]:
                del wanted[key]
                self._forget(wanted)
            yield data

    def _fetch(self, key: tuple[str, int]) -> None:
        if key not in self._blocks:
            segment, block = key
            start = block * BLOCK_BYTES
            end = min(start + BLOCK_BYTES, self._sizes.get(segment, 0))
            self._blocks[key] = self._threads.submit(self._store.read_range, segment, start, end)
        self._blocks.move_to_end(key)

    def _forget(self, wanted: dict[tuple[str, int], int]) -> None:
        """Forget the blocks that were asked for longest ago, and that nobody waits for."""
        for key in [*self._blocks][: max(0, len(self._blocks) - _KEPT)]:
            if key not in wanted:
                del self._blocks[key]


def _pieces(spans: Iterable[Span]) -> Iterator[_Piece]:
    for segment, offset, length in spans:
        end = offset + length
        while offset < end:
            block = offset // BLOCK_BYTES
            base = block * BLOCK_BYTES
            until = min(end, base + BLOCK_BYTES)
            yield _Piece(segment, block, offset - base, until - base)
            offset = until
