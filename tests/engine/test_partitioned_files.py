# SPDX-License-Identifier: Apache-2.0
"""One mini-batch for each combination of partition keys: inputs of files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_parallelrun.datasets import FileDataset
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, PartitionError
from demo.samples import SOUNDS

FORMAT = "{user}/{season}/{genres}.wav"
ECHO = """
import json
def run(mini_batch, context):
    keys = context.partition_key_value
    names = ["/".join(path.split("/")[-3:]) for path in mini_batch]
    assert context.dataset.to_path() == mini_batch
    told = {key: str(keys[key]) for key in keys}
    return [json.dumps([context.minibatch_index, told, name]) for name in names]
"""


@pytest.fixture
def sounds(job):
    for name in SOUNDS:
        path = job.folder / "input" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return job


def inputs(text=FORMAT, path="input"):
    return (FileDataset.from_files(path, partition_format=text).as_named_input("sounds"),)


def run(job, keys, **config):
    job.split(ECHO, partition_keys=keys, mini_batch_size=None, inputs=inputs(), **config).run()
    return [json.loads(row) for row in job.rows()]


def test_some_of_the_keys(sounds):
    rows = run(sounds, ["user", "genres"], node_count=2)
    assert sounds.plan.mini_batches == 5
    assert sounds.plan.items == 6
    assert len(rows) == 6
    together = [(index, keys, name) for index, keys, name in rows if keys["user"] == "user4"]
    assert len({index for index, _, _ in together}) == 1
    assert [name for _, _, name in together] == ["user4/fall/piano.wav", "user4/spring/piano.wav"]
    assert {tuple(keys.items()) for _, keys, _ in rows} == {
        (("user", "user1"), ("genres", "orchestra")),
        (("user", "user1"), ("genres", "disco")),
        (("user", "user2"), ("genres", "piano")),
        (("user", "user3"), ("genres", "spirituality")),
        (("user", "user4"), ("genres", "piano")),
    }


def test_one_key_whose_files_are_not_neighbours(sounds):
    rows = run(sounds, ["season"])
    assert sounds.plan.mini_batches == 4
    for index in {index for index, _, _ in rows}:
        assert len({keys["season"] for number, keys, _ in rows if number == index}) == 1
    assert sorted(name for _, _, name in rows) == sorted(f"{name}.wav" for name in SOUNDS)


def test_dates(job):
    for day in ("2026/01/01", "2026/01/02"):
        (job.folder / "input" / day).mkdir(parents=True)
        (job.folder / "input" / day / "x").write_text("")
    job.split(ECHO, partition_keys=["day"], mini_batch_size=None, inputs=inputs("{day:yyyy/MM/dd}/x")).run()
    assert [json.loads(row)[1] for row in job.rows()] == [
        {"day": "2026-01-01 00:00:00"},
        {"day": "2026-01-02 00:00:00"},
    ]


def test_a_path_that_does_not_fit(sounds):
    (sounds.folder / "input" / "notes.txt").write_text("")
    with pytest.raises(PartitionError, match=r"notes.txt' does not fit partition_format='\{user\}"):
        run(sounds, ["user"])
    assert not sounds.output.exists()
    sounds.split(
        ECHO, partition_keys=["user"], mini_batch_size=None, inputs=inputs(path="input/**/*.wav")
    ).run()
    assert len(sounds.rows()) == 6


def test_a_key_that_an_input_does_not_have(sounds):
    with pytest.raises(InvalidValueError, match="among the keys of each input; one has user, season, genres"):
        run(sounds, ["year"])
    with pytest.raises(InvalidValueError, match="one has none: it has no partition_format"):
        sounds.split(
            ECHO,
            partition_keys=["user"],
            mini_batch_size=None,
            inputs=(FileDataset.from_files("input").as_mount(),),
        )


def test_a_format_alone_changes_nothing(sounds):
    sounds.split(ECHO, mini_batch_size=4, inputs=inputs()).run()
    rows = [json.loads(row) for row in sounds.rows()]
    assert [(index, keys) for index, keys, _ in rows] == [("0", {})] * 4 + [("1", {})] * 2


def test_files_and_tables_do_not_mix(job):
    from airflow_parallelrun.datasets import TabularDataset

    job.files(1)
    table = Path(job.folder / "t.csv")
    table.write_text("a\n1\n")
    both = (
        FileDataset.from_files("input").as_mount(),
        TabularDataset.from_delimited_files("t.csv").as_direct(),
    )
    with pytest.raises(ConfigurationError, match="inputs has files and tables"):
        job.split(ECHO, inputs=both)
