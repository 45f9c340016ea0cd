# SPDX-License-Identifier: Apache-2.0
"""Say how large each sound file is, and what part that is of all files of its user and genre."""

import os


def run(mini_batch, mini_batch_context):
    """Return name, size, share, user, genre and the sum of the sizes of each file, with commas between."""
    keys = mini_batch_context.partition_key_value
    sizes = [os.path.getsize(path) for path in mini_batch]
    total = sum(sizes)
    return [
        f"{os.path.basename(path)},{size},{size / total},{keys['user']},{keys['genres']},{total}"
        for path, size in zip(mini_batch, sizes, strict=True)
    ]
