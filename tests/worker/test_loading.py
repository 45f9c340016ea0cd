# SPDX-License-Identifier: Apache-2.0
"""What run() gets of an input of files."""

from __future__ import annotations

import os

from airflow_parallelrun.worker.errors import InputChangedError
from airflow_parallelrun.worker.loading import Loader, find


def test_inputs_that_are_as_they_were_listed(tmp_path):
    path = tmp_path / "x"
    path.write_text("abc")
    status = path.stat()
    item = [str(path), 3, status.st_mtime_ns]
    url = ["https://host/file", None, None]
    assert find([item, url]) == ([item, url], [str(path), "https://host/file"], None)
    os.utime(path, ns=(0, 5))
    found = find([item, [str(tmp_path / "gone"), 1, 1], [str(path), 3, 5]])
    assert (found.items, found.places) == ([[str(path), 3, 5]], [str(path)])
    assert isinstance(found.wrong, InputChangedError)
    assert str(found.wrong) == f"{path} has changed since it was listed"
    assert find([[str(path), 4, 5]]).places == []
    wrong = find([[str(tmp_path / "gone"), 1, 1]]).wrong
    assert "gone was listed and cannot be read: No such file or directory" in str(wrong)


def test_a_part_of_a_mini_batch_and_its_keys():
    source = {"type": "file", "partition_format": "{user}/{day:yyyy-MM-dd}/*.wav"}
    line = [0, *([f"s3://b/ada/2026-11-0{n}/x.wav", 1, None] for n in (1, 2, 3))]
    loaded = Loader([source], ["user"]).load(line, slice(1, 3))
    assert loaded.value == ["s3://b/ada/2026-11-02/x.wav", "s3://b/ada/2026-11-03/x.wav"]
    assert loaded.value is not loaded.paths  # the script may take from it what it likes
    assert (loaded.paths, loaded.items, loaded.wrong, loaded.keys) == (loaded.value, 2, None, {"user": "ada"})


def test_nothing_is_left_of_it(tmp_path):
    loaded = Loader([{"type": "file"}], []).load([0, [str(tmp_path / "gone"), 1, 1]])
    assert (loaded.value, loaded.items, loaded.keys) == (None, 1, {})
    assert isinstance(loaded.wrong, InputChangedError)
