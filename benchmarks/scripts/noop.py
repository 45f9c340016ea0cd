# SPDX-License-Identifier: Apache-2.0
"""Does nothing: what a mini-batch costs that costs nothing."""

import stamps


def init():
    stamps.init_begins()
    stamps.init_ends()


def run(mini_batch):
    stamps.run_ends()
    return mini_batch
