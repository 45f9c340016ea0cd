# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from airflow_parallelrun.exceptions import ConfigurationError
from airflow_parallelrun.operators.conf import refuse_near_misses

ORIGINS = [
    ("inputs[0]", "files"),
    ("arguments[1]", "threshold"),
    ("mini_batch_size", "batch_size"),
    ("node_count", "nodes"),
    ("node_count", "wide_nodes"),
    ("logging_level", "level"),
]
KNOWN = {"files", "threshold", "batch_size", "nodes", "wide_nodes", "level", "date", "level_2"}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("batch_sise", "batch_size"),
        ("batch_szie", "batch_size"),
        ("batchsize", "batch_size"),
        ("Batch_Size", "batch_size"),
        ("batch-size", "batch_size"),
        ("BATCH SIZE", "batch_size"),
        ("mini_batch_size", "batch_size"),
        ("miniBatchSize", "batch_size"),
        ("batch_size_param", "batch_size"),
        ("file", "files"),
        ("flies", "files"),
        ("inputs", "files"),
        ("node", "nodes"),
        ("node_count", "wide_nodes"),
        ("treshold", "threshold"),
        ("lebel", "level"),
        ("logging_level", "level"),
    ],
)
def test_a_slip_gets_a_suggestion(key: str, meant: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        refuse_near_misses({key: 1, "files": "/data"}, KNOWN, ORIGINS)
    assert str(refused.value).startswith(
        f"unknown parameter {key!r} in the run's conf; did you mean {meant!r}? Trigger the DAG again with"
    )


@pytest.mark.parametrize(
    "key",
    ["channel", "profile", "customer", "label", "size", "arguments", "argument", "", "ß", "note", "run"],
)
def test_a_key_that_resembles_none_is_somebody_elses(key: str) -> None:
    assert refuse_near_misses({key: 1, "nodes": 2}, KNOWN, ORIGINS) == [key]


@pytest.mark.parametrize("key", sorted(KNOWN))
def test_a_parameter_of_the_dag_is_never_a_slip(key: str) -> None:
    assert refuse_near_misses({key: 1}, KNOWN, ORIGINS) == []


def test_without_conf_or_parameters_there_is_nothing_to_refuse() -> None:
    assert refuse_near_misses({}, KNOWN, ORIGINS) == []
    assert refuse_near_misses({"batch_sise": 1}, set(), []) == ["batch_sise"]


def test_all_slips_are_named_at_once() -> None:
    with pytest.raises(
        ConfigurationError, match=r"'file' .* 'files'\? unknown parameter 'node' .* 'nodes'\?"
    ):
        refuse_near_misses({"node": 1, "file": 2}, KNOWN, ORIGINS)
