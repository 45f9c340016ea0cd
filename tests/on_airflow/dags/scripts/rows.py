# SPDX-License-Identifier: Apache-2.0
"""Returns the rows that it gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame


def run(mini_batch: DataFrame) -> DataFrame:
    """Return them."""
    return mini_batch
