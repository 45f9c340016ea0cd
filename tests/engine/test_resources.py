# SPDX-License-Identifier: Apache-2.0
"""resource_monitor_interval: what a node uses is sampled beside the work, and never stops it."""

from __future__ import annotations

import csv
import io
import logging
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from workbench import make_config, make_plan

from airflow_parallelrun.engine import resources
from airflow_parallelrun.engine.names import Attempt
from airflow_parallelrun.engine.resources import DISK_COLUMNS, NODE_COLUMNS, PROCESS_COLUMNS, ResourceMonitor

FILES = {
    "node_resource_usage.csv": NODE_COLUMNS,
    "processes_resource_usage.csv": PROCESS_COLUMNS,
    "node_disk_usage.csv": DISK_COLUMNS,
}
BURNS = """
    import time
    def run(mini_batch):
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
        return mini_batch
"""


def read(folder):
    """The rows of each file, as dicts; their header is the columns."""
    found = {}
    for name, columns in FILES.items():
        reader = csv.DictReader(io.StringIO((Path(folder) / name).read_text()))
        found[name.partition(".")[0]] = list(reader)
        assert tuple(reader.fieldnames) == columns
    return found["node_resource_usage"], found["processes_resource_usage"], found["node_disk_usage"]


def test_a_node_is_sampled_at_its_start_and_its_end(job):
    job.files(4).split(BURNS, process_count_per_node=2).run()
    node, processes, disks = read(job.output / "logs/sys/perf/0-1")
    assert len(node) == 2
    for row in node:
        total, used = float(row["Memory Total (MB)"]), float(row["Memory Used (MB)"])
        assert 0 < used < total == round(psutil.virtual_memory().total / (1 << 20), 1)
        assert int(row["# of TCP/UDP Connections"]) >= 0
    assert node[0]["Cpu Percent"] == ""
    assert 0 <= float(node[1]["Cpu Percent"]) <= 100
    assert [row["Name"] for row in processes if row["Pid"] == str(os.getpid())] == ["node", "node"]
    ended = {row["Name"]: row for row in processes if row["State"] == "ended"}
    assert set(ended) == {"process000", "process001"}
    assert sum(float(row["Cpu Seconds"]) for row in ended.values()) >= 0.8
    assert all(float(row["Memory Peak (MB)"]) > 1 for row in ended.values())
    assert [row["Folder"] for row in disks] == ["output", "run directory", "temporary"] * 2
    assert disks[0]["Path"] == str(job.output)
    assert all(float(row["Total (MB)"]) > float(row["Free (MB)"]) > 0 for row in disks)


def test_with_0_there_are_no_samples(job, echo):
    job.files(2).split(echo, resource_monitor_interval=0).run()
    assert not (job.output / "logs" / "sys" / "perf").exists()


def test_a_monitor_that_fails_is_told_once_and_the_node_goes_on(job, echo, caplog):
    caplog.set_level(logging.WARNING, logger="airflow_parallelrun")
    job.files(2).split(echo)
    (job.output / "logs" / "sys").mkdir(parents=True)
    (job.output / "logs" / "sys" / "perf").write_text("in the way")
    assert job.run().verdict == "succeeded"
    (record,) = [record for record in caplog.records if "resource usage" in record.message]
    assert record.levelname == "WARNING"
    assert "logs/sys/perf" in record.message


def test_processes_that_an_abort_ends_are_in_the_last_sample(job):
    script = "import time\ndef run(mini_batch): time.sleep(600)\n"
    job.files(2).split(script, progress_update_timeout=1, process_count_per_node=2).node()
    _, processes, _ = read(job.output / "logs/sys/perf/0-1")
    last = [row for row in processes if row["Name"].startswith("process0")]
    assert {row["Name"]: row["State"] for row in last} == {"process000": "running", "process001": "running"}
    for row in last:
        assert int(row["Threads"]) >= 1
        assert 3 <= int(row["Open Files"]) < 50
        assert float(row["Memory Peak (MB)"]) >= float(row["Memory Rss (MB)"]) > 1


@pytest.fixture
def monitor(tmp_path):
    """A monitor whose samples the test takes itself."""
    plan = make_plan(tmp_path, config=make_config(resource_monitor_interval=0))
    return ResourceMonitor(plan, Attempt(2, 3), str(tmp_path), plan.logs)


def test_samples_are_taken_at_each_interval_from_a_thread_of_its_own(tmp_path, monkeypatch):
    threads, thrice = [], threading.Event()

    def sample(self):
        threads.append(threading.current_thread())
        if len(threads) == 3:
            thrice.set()

    monkeypatch.setattr(ResourceMonitor, "_sample", sample)
    plan = make_plan(tmp_path, config=make_config(resource_monitor_interval=1))
    monitor = ResourceMonitor(plan, Attempt(0, 1), str(tmp_path), plan.logs)
    assert thrice.wait(30)
    monitor.close()
    assert len(threads) == 4
    assert threading.current_thread() not in threads


def test_percentages_are_since_the_row_before(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(resources, "time", SimpleNamespace(monotonic=lambda: clock.now))
    watched = resources._Watched("process000", 1, 100.0, 0.0)
    clock.now += 10
    assert watched.percent(5.0) == 50.0
    clock.now += 10
    assert watched.percent(25.0) == 200.0


def test_what_is_gone_is_left_out_and_what_the_machine_hides_is_empty(monitor, tmp_path, monkeypatch):
    monitor.follow(SimpleNamespace(pid=2**22 + 1, name="process000", exit=None))
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    monkeypatch.setattr(psutil, "net_io_counters", raises(NotImplementedError))
    monkeypatch.setattr(resources, "_SOCKETS", (str(tmp_path / "none"),))
    monitor._sample()
    node, processes, _ = read(tmp_path / "logs/sys/perf/2-3")
    assert [row["Name"] for row in processes] == ["node"]
    empty = {name for name, value in node[0].items() if value == ""}
    assert empty == {"Cpu Percent", *NODE_COLUMNS[6:]}


def raises(kind):
    def call():
        raise kind

    return call


def test_connections_are_those_that_the_kernel_counts(tmp_path, monkeypatch):
    (tmp_path / "4").write_text(
        "sockets: used 12\nTCP: inuse 7 orphan 0 tw 900 alloc 9\nUDP: inuse 2 mem 0\n"
    )
    (tmp_path / "6").write_text("TCP6: inuse 30\nUDP6: inuse 1\nUDPLITE6: inuse 5\nRAW6: inuse 1\n")
    monkeypatch.setattr(resources, "_SOCKETS", (str(tmp_path / "4"), str(tmp_path / "6")))
    assert resources._connections() == 40
