# SPDX-License-Identifier: Apache-2.0
"""R8: what is tolerated; the limits combine with *or*, and the percentage waits for the end."""

from __future__ import annotations

import pytest
from workbench import make_config

from airflow_parallelrun.engine.budget import Failures, breaches, final_breaches, init_breaches
from airflow_parallelrun.engine.pool import Failure
from airflow_parallelrun.parameters import PipelineParameter

NONE, ITEMS, COUNT, PERCENT = [], "error_threshold", "allowed_failed_count", "allowed_failed_percent"


@pytest.mark.parametrize(
    ("limits", "items", "mini_batches", "names"),
    [
        ({ITEMS: 0}, 0, 0, NONE),
        ({ITEMS: 0}, 1, 1, [ITEMS]),
        ({ITEMS: 10}, 10, 10, NONE),
        ({ITEMS: 10}, 11, 1, [ITEMS]),
        ({ITEMS: -1}, 10**9, 10**9, NONE),
        ({ITEMS: -1, COUNT: 0}, 1, 1, [COUNT]),
        ({ITEMS: -1, COUNT: 3}, 99, 3, NONE),
        ({ITEMS: -1, COUNT: 3}, 99, 4, [COUNT]),
        ({ITEMS: -1, COUNT: -1}, 99, 99, NONE),
        ({ITEMS: 0, COUNT: -1}, 1, 1, [ITEMS]),
        ({ITEMS: 5, COUNT: 1}, 6, 2, [ITEMS, COUNT]),
    ],
)
def test_counts(limits, items, mini_batches, names):
    config = make_config(**limits)
    found = breaches(config, Failures(items, mini_batches))
    assert [sentence.split(", ")[1].split(" is ")[0] for sentence in found] == names
    assert final_breaches(config, Failures(items, mini_batches), 10**10) == found


@pytest.mark.parametrize(
    ("limit", "failed", "total", "over"),
    [
        (None, 10, 10, False),
        (0, 0, 10, False),
        (0, 1, 10**6, True),
        (10, 1, 10, False),
        (9.99, 1, 10, True),
        (2.5, 1, 40, False),
        (2.5, 2, 40, True),
        (100, 10, 10, False),
        (30, 3, 10, False),
    ],
)
def test_percentage_is_judged_at_the_end_alone(limit, failed, total, over):
    config = make_config(allowed_failed_percent=limit)
    failures = Failures(failed, failed)
    assert breaches(config, failures) == []
    found = final_breaches(config, failures, total)
    assert [PERCENT in sentence for sentence in found] == [True] * over


def test_sentences_name_count_and_limit():
    config = make_config(error_threshold=2, allowed_failed_count=1, allowed_failed_percent=10)
    assert final_breaches(config, Failures(5, 3), 12) == [
        "5 items failed, error_threshold is 2",
        "3 mini-batches failed, allowed_failed_count is 1",
        "25.0 % of the mini-batches failed, allowed_failed_percent is 10",
    ]


@pytest.mark.parametrize("name", [ITEMS, COUNT, PERCENT])
def test_a_limit_without_a_value_is_a_fault_of_ours(name):
    config = make_config(**{name: PipelineParameter("limit", 1)})
    with pytest.raises(TypeError, match="not resolved"):
        final_breaches(config, Failures(0, 0), 1)


@pytest.mark.parametrize(
    ("failures", "age_s", "hopeless"), [(16, 120, True), (99, 3600, True), (15, 120, False), (99, 119, False)]
)
def test_init_on_all_nodes_is_given_up_by_the_originals_rule(failures, age_s, hopeless):
    last = Failure("RuntimeError: no weights (score.py, line 2, in init)", "", "/logs/process007.txt")
    found = init_breaches(failures, processes=8, age_s=age_s, last=last)
    assert bool(found) == hopeless
    for sentence in found:
        assert sentence.startswith(f"{failures} processes on all nodes died in init()")
        assert sentence.endswith("no weights (score.py, line 2, in init). Full log: /logs/process007.txt")


def test_init_is_not_given_up_where_nothing_failed():
    assert init_breaches(99, processes=1, age_s=1e9, last=None) == []
