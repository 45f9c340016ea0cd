# SPDX-License-Identifier: Apache-2.0
"""What the rows of a run depend on."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from workbench import make_config, make_plan

from airflow_parallelrun.config import ComputeTarget, Environment, ParallelRunConfig
from airflow_parallelrun.datasets import FilePart, ListedFile
from airflow_parallelrun.engine.fingerprint import NOT_COUNTED, differences, fingerprint
from airflow_parallelrun.engine.items import ItemWriter

# Of every field another value: whoever adds a field decides whether it counts.
OTHER: dict[str, Any] = {
    "allowed_failed_count": 3,
    "allowed_failed_percent": 5,
    "append_row_dataframe_header": True,
    "append_row_file_name": "other.txt",
    "append_row_format": "csv",
    "append_row_order": "any",
    "bisect_failures": True,
    "compute_target": ComputeTarget(pool="gpu"),
    "description": "for the record",
    "entry_script": "other.py",
    "environment": Environment(python="/usr/bin/python3"),
    "environment_variables": {"API_KEY": "xyzzy"},
    "error_threshold": 7,
    "first_task_creation_timeout": 9,
    "init_timeout": 9,
    "logging_level": "DEBUG",
    "mini_batch_size": 3,
    "model": "mnist:3",
    "node_count": 3,
    "output_action": "summary_only",
    "partition_keys": ["user"],
    "process_count_per_node": 3,
    "profiling_module": "cProfile",
    "progress_update_timeout": 9,
    "provenance_columns": ("mini_batch",),
    "resource_monitor_interval": 9,
    "retry_short_returns": True,
    "run_invocation_timeout": 9,
    "run_max_try": 9,
    "shutdown_timeout": 9,
    "source_directory": "elsewhere",
    "spool_bytes": 1 << 20,
    "start_method": "exec",
    "strict_returns": True,
    "task_overhead_timeout": 9,
}


def of(config: ParallelRunConfig | None = None, **values: Any) -> dict[str, str]:
    given = {"inputs": [{"type": "file", "paths": ["/in"], "mode": "mount", "name": None}], **values}
    return fingerprint(make_plan("/run", config=config, **given), "listing")


@pytest.mark.parametrize("name", [field.name for field in fields(ParallelRunConfig)])
def test_a_field_counts_unless_it_cannot_change_a_row(name):
    plain = make_config(append_row_file_name="rows.txt")
    changed = replace(plain, **{name: OTHER[name]})
    assert getattr(changed, name) != getattr(plain, name)
    # The entry script counts by its place in the code, which the plan has.
    found = differences(of(changed), of(plain))
    assert found == ([] if name in NOT_COUNTED or name == "entry_script" else [name])


def test_only_fields_are_left_out():
    assert {field.name for field in fields(ParallelRunConfig)} >= NOT_COUNTED


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("arguments", {"arguments": ["--threshold", "0.5"]}),
        ("code", {"code_sha256": "1" * 64}),
        ("entry_script", {"entry_script": "other.py"}),
        ("models_root", {"models_root": "/models"}),
        ("inputs", {"inputs": [{"type": "file", "paths": ["/in"], "mode": "direct", "name": None}]}),
        ("inputs", {"sources": [{"type": "file", "partition_format": "{user}/*"}]}),
    ],
)
def test_what_else_counts(name, values):
    assert differences(of(**values), of()) == [name]


def test_by_which_path_a_file_was_found_does_not_count():
    document = {"type": "file", "paths": ["/in/*"], "mode": "mount", "name": None}
    assert of(inputs=[document]) == of()


def test_an_input_that_is_cut_otherwise_is_not_said_to_be_another():
    plan = make_plan("/run")
    larger = replace(plan, config=make_config(mini_batch_size=5))
    assert differences(fingerprint(larger, "other"), fingerprint(plan, "listing")) == ["mini_batch_size"]
    assert differences(fingerprint(plan, "other"), fingerprint(plan, "listing")) == ["input"]


def test_no_value_can_be_read_in_it():
    text = json.dumps(of(make_config(environment_variables={"API_KEY": "xyzzy"}), arguments=["hunter2"]))
    assert "xyzzy" not in text
    assert "hunter2" not in text


FILE = ListedFile("/in/a", 3, 1_000, None)


def digest(*files: ListedFile) -> str:
    items = ItemWriter()
    for file in files:
        items.add(0, [file])
    assert items.are_identifiable
    return items.sha256()


@pytest.mark.parametrize(
    "changes",
    [{"path": "/in/b"}, {"size": 4}, {"mtime_ns": 1_001}, {"etag": '"7"'}, {"mtime_ns": None, "etag": "x"}],
)
def test_a_listing_is_another_when_anything_of_a_file_is(changes):
    assert digest(FILE) == digest(FILE)
    assert digest(FILE._replace(**changes)) != digest(FILE)


def test_a_listing_is_another_with_another_file_or_other_mini_batches():
    other = FILE._replace(path="/in/b")
    assert len({digest(FILE), digest(FILE, other), digest(other, FILE)}) == 3
    together = ItemWriter()
    together.add(0, [FILE, other])
    assert together.sha256() != digest(FILE, other)


def test_many_items_have_the_digest_of_all_of_them():
    files = [FILE._replace(path=f"/in/{number:0200d}") for number in range(6_000)]  # more than a block
    assert digest(*files) != digest(*files[:-1], files[-1]._replace(size=4))


def test_a_file_without_a_time_and_a_tag_is_like_any_other_of_its_size():
    unknown = FILE._replace(mtime_ns=None)
    files, parts = ItemWriter(), ItemWriter()
    files.add(0, [FILE, unknown])
    parts.add_parts(0, [FilePart(unknown, 0, 3, 3, None)])
    assert not files.are_identifiable
    assert not parts.are_identifiable
