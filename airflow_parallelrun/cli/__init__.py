# SPDX-License-Identifier: Apache-2.0
"""The ``parallelrun`` command: the engine without Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    :param arguments: what follows the command's name; default: those of this process
    """
    from .command import main

    return main(arguments)
