# SPDX-License-Identifier: Apache-2.0
"""Says for each row of a table what a logistic regression with random weights makes of it."""

import numpy as np
import stamps


def init():
    global _weights
    stamps.init_begins()
    _weights = np.random.default_rng(1).normal(size=11)
    stamps.init_ends()


def run(frame):
    scores = 1 / (1 + np.exp(-(frame.iloc[:, 1:].to_numpy() @ _weights)))
    rows = [
        f"{row},{label}" for row, label in zip(frame["id"].tolist(), (scores > 0.5).tolist(), strict=True)
    ]
    stamps.run_ends()
    return rows
