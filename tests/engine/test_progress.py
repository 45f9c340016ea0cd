# SPDX-License-Identifier: Apache-2.0
"""Progress is small: Airflow keeps it in a column of its database."""

from __future__ import annotations

import json

from airflow_parallelrun.engine.progress import Progress

SAMPLE = Progress(4095, 99, "running", 10**9, 10**9, 10**9, 10**12, 10**12, 123456.789, 512, 1234.567)


def test_it_is_small():
    assert len(json.dumps(SAMPLE.to_dict())) < 4096
