# SPDX-License-Identifier: Apache-2.0
"""Returns a long row for each file."""

import os

import stamps


def init():
    global _width
    stamps.init_begins()
    _width = int(os.environ["BENCHMARK_ROW_BYTES"])
    stamps.init_ends()


def run(mini_batch):
    rows = [os.path.basename(path).ljust(_width - 1, "x") for path in mini_batch]
    stamps.run_ends()
    return rows
