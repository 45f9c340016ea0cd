# SPDX-License-Identifier: Apache-2.0
"""Returns the names of its items, and depends on nothing else."""

from __future__ import annotations

import os


def run(mini_batch: list[str]) -> list[str]:
    """Return the items' names."""
    return [os.path.basename(path) for path in mini_batch]
