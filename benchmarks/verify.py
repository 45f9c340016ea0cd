# SPDX-License-Identifier: Apache-2.0
"""Tells whether two peers have written the same rows, in whatever order."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_DIGEST_BYTES = 16


class Fingerprint(NamedTuple):
    """What a file of rows has in it.

    :param rows: how many
    :param checksum: of the rows' checksums, sorted; so it does not tell in which order the rows are
    """

    rows: int
    checksum: str


class WrongOutputError(Exception):
    """A peer has lost, doubled or changed rows."""


def fingerprint(path: Path) -> Fingerprint:
    """Return the fingerprint of a file; a last row without its end of line is another row."""
    digests = []
    with path.open("rb") as file:
        digests = [hashlib.blake2b(row, digest_size=_DIGEST_BYTES).digest() for row in file]
    digests.sort()
    return Fingerprint(
        len(digests), hashlib.blake2b(b"".join(digests), digest_size=_DIGEST_BYTES).hexdigest()
    )


def check(path: Path, right: Fingerprint) -> None:
    """Compare a file with the right fingerprint.

    :raises WrongOutputError: when it is another one
    """
    try:
        found = fingerprint(path)
    except FileNotFoundError:
        raise WrongOutputError("there is no file of rows") from None
    if found.rows != right.rows:
        raise WrongOutputError(f"{found.rows} rows, and {right.rows} are right")
    if found != right:
        raise WrongOutputError(f"{found.rows} rows, as is right, but not the right ones")
