# SPDX-License-Identifier: Apache-2.0
"""Processes that die, hang or are killed: nothing lost, nothing twice, and the right one is charged."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from workbench import journalled, wait_for

from airflow_parallelrun.config import Environment
from airflow_parallelrun.engine import ledger, names, session, standing, workplace
from airflow_parallelrun.engine.claims import Claims
from airflow_parallelrun.engine.node import Node
from airflow_parallelrun.engine.plan import read_plan
from airflow_parallelrun.engine.rounds import start_attempt
from airflow_parallelrun.engine.session import CONTROL_INTERVAL_S
from airflow_parallelrun.exceptions import (
    ConfigurationError,
    InterruptedRunError,
    StorageError,
    ThresholdExceededError,
    UnprocessedError,
)
from airflow_parallelrun.worker.guardian import TAG_VARIABLE

NODE = """
import sys
from airflow_parallelrun.engine.node import Node
Node(sys.argv[1], int(sys.argv[2])).run()
"""


def start_node(job, index=0):
    """Start a node in a process of its own."""
    command = [sys.executable, "-c", NODE, job.plan.run_dir, str(index)]
    return subprocess.Popen(command, start_new_session=True)


def processes_with(variable):
    """The living processes whose environment has a variable with this content."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if variable.encode() in content:
            found.append(int(path.parent.name))
    return found


def _claim_all(run_dir, index, barrier, queue):
    plan = read_plan(run_dir)
    started = start_attempt(plan.store, index)
    claims = Claims(plan, started, range(len(plan.chunk_starts)))
    claims._free.sort(reverse=True)  # all look at the same chunk at the same time
    barrier.wait()
    mine = []
    while (chunk := claims.next()) is not None:
        mine.append(chunk)
    queue.put(mine)


def test_four_processes_never_claim_the_same_of_2000_chunks(job, echo):
    job.files(2000).split(echo, node_count=4, process_count_per_node=8)
    assert len(job.plan.chunk_starts) == 2000
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(4), context.Queue()
    run_dir = job.plan.run_dir
    workers = [context.Process(target=_claim_all, args=(run_dir, n, barrier, queue)) for n in range(4)]
    for worker in workers:
        worker.start()
    claimed = Counter(chunk for _ in workers for chunk in queue.get(timeout=120))
    for worker in workers:
        worker.join()
    assert claimed == dict.fromkeys(range(2000), 1)


EXIT = "os._exit(9)"
SEGFAULT = "os.kill(os.getpid(), 11)"
HANG = "import time; time.sleep(600)"


@pytest.mark.parametrize("fault", [EXIT, SEGFAULT, HANG], ids=["exit", "segfault", "hang"])
@pytest.mark.parametrize("k", [0, 1, 100, 255])
def test_one_bad_mini_batch_among_fast_ones_is_the_only_one_charged(job, fault, k):
    script = f"""
        def run(mini_batch):
            called(mini_batch)
            if mini_batch[0].endswith("{k:05d}"):
                {fault}
            return [os.path.basename(path) for path in mini_batch]
    """
    job.files(256).split(script, run_max_try=1, run_invocation_timeout=1, error_threshold=1)
    result = job.run()
    assert (result.counts.succeeded, result.counts.failed) == (255, 1)
    assert job.rows() == job.names(256, without={k})
    assert job.calls()[f"{k:05d}"] == 1
    (line,) = job.failed_items()
    assert line["mini_batch"] == k


def test_every_crash_is_tried_run_max_try_times(job):
    script = """
        def run(mini_batch):
            called(mini_batch)
            if mini_batch[0].endswith("3"):
                os._exit(1)
            return mini_batch
    """
    job.files(8).split(script, run_max_try=3, error_threshold=1).run()
    calls = job.calls()
    assert calls["00003"] == 3
    (line,) = job.failed_items()
    assert line["tries"] == 3
    assert line["error"]["message"] == "the process exited with status 1"


def test_a_slow_mini_batch_does_not_hold_up_those_behind_it(job):
    # 100 quick ones open the window; the slow one then has others queued behind it.
    script = """
        import time
        def run(mini_batch):
            called(mini_batch)
            time.sleep(3 if mini_batch[0].endswith("00100") else 0)
            return [f"{os.path.basename(mini_batch[0])} {os.getpid()} {time.monotonic()}"]
    """
    job.files(200).split(script).run()
    rows = [row.split() for row in job.rows()]
    assert [row[0] for row in rows] == job.names(200)
    (slow,) = (row for row in rows if row[0] == "00100")
    behind = [row for row in rows if row[1] == slow[1] and float(row[2]) > float(slow[2])]
    assert behind == []


def test_grandchildren_do_not_outlive_their_mini_batch(job):
    script = """
        import subprocess
        def run(mini_batch):
            environment = {**os.environ, "GRANDCHILD": FOLDER}
            subprocess.Popen(["sleep", "600"], env=environment)
            subprocess.Popen(["setsid", "sleep", "600"], env=environment)
            return mini_batch
    """.replace("FOLDER", repr(str(job.folder)))
    job.files(2).split(script).run()
    assert processes_with(f"GRANDCHILD={job.folder}") == []


def test_a_killed_node_leaves_no_process_and_its_next_attempt_redoes_only_what_was_not_committed(job):
    script = """
        import time
        def run(mini_batch):
            called(mini_batch)
            if not os.path.exists(GO):
                time.sleep(0.2)
            return [os.path.basename(path) for path in mini_batch]
    """.replace("GO", repr(str(job.folder / "go")))
    job.files(60).split(script, environment_variables={"THIS_TEST": str(job.folder)})
    node = start_node(job)
    journal = Path(job.plan.run_dir) / "journal" / "0-1-0.jsonl"
    wait_for(lambda: len(journalled(journal)) > 5)
    (worker, *_) = processes_with(f"THIS_TEST={job.folder}")
    temporary = Path(f"/proc/{worker}/cwd").readlink()
    node.kill()
    node.wait()
    wait_for(lambda: not processes_with(f"THIS_TEST={job.folder}"))
    wait_for(lambda: not temporary.exists())
    committed = {line.ordinal for line in journalled(journal)}
    before = job.calls()
    (job.folder / "go").touch()
    job.run()
    assert job.rows() == job.names(60)
    again = {int(name) for name, count in (job.calls() - before).items() if count}
    assert again == set(range(60)) - committed


def test_a_node_asked_to_stop_commits_and_raises_and_nobody_is_charged(job):
    script = """
        import time
        def run(mini_batch):
            called(mini_batch)
            time.sleep(0.1 if not os.path.exists(GO) else 0)
            return [os.path.basename(path) for path in mini_batch]
    """.replace("GO", repr(str(job.folder / "go")))
    job.files(40).split(script, run_max_try=1)
    node = Node(job.plan.run_dir, 0)
    threading.Timer(1.5, node.request_stop).start()
    with pytest.raises(InterruptedRunError):
        node.run()
    (job.folder / "go").touch()
    result = job.run()
    assert result.verdict == "succeeded"
    assert job.rows() == job.names(40)


def test_mini_batch_that_kills_its_node_three_times_is_failed(job):
    script = """
        import signal
        def run(mini_batch):
            called(mini_batch)
            if mini_batch[0].endswith("00002"):
                os.kill(os.getppid(), signal.SIGKILL)
                signal.pause()
            return [os.path.basename(path) for path in mini_batch]
    """
    job.files(5).split(script, error_threshold=1, process_count_per_node=1)
    for _ in range(3):
        node = start_node(job)
        assert node.wait(timeout=60) == -signal.SIGKILL
    result = job.run()
    assert job.rows() == job.names(5, without={2})
    assert job.calls()["00002"] == 3
    assert "3 node processes that died" in result.error_groups[0].error


def test_what_runs_beside_a_mini_batch_that_kills_its_node_is_not_taken_for_it(job):
    script = """
        import signal, time
        def run(mini_batch):
            called(mini_batch)
            time.sleep(0.5)
            if mini_batch[0].endswith("00002"):
                os.kill(os.getppid(), signal.SIGKILL)
                signal.pause()
            time.sleep(0.5)
            return [os.path.basename(path) for path in mini_batch]
    """
    job.files(8).split(script, error_threshold=1, process_count_per_node=4)
    for _ in range(3):
        assert start_node(job).wait(timeout=60) == -signal.SIGKILL
    result = job.run()
    assert job.rows() == job.names(8, without={2})
    assert job.calls()["00002"] == 3
    assert result.counts.failed == 1
    log = (job.folder / "output" / "logs" / "sys" / "node" / "0-3.log.txt").read_text()
    # Which others were running each time depends on how fast the processes start.
    assert re.search(r"mini-batches .*\b2\b.* may be what this node died of 2 times: each runs alone", log)


def test_why_a_node_could_not_start_is_told_and_nothing_of_it_stays(job, echo, tmp_path, monkeypatch):
    job.files(4).split(echo)
    temporary = tmp_path / "temporary"
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    with pytest.raises(StorageError, match="No such file or directory"):
        job.node()
    temporary.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(workplace, "is_remote", lambda url: True)
        patch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
        with pytest.raises(StorageError, match="No such file or directory"):
            job.node()
    with monkeypatch.context() as patch:
        patch.setattr(session, "Intake", refuse)
        with pytest.raises(StorageError, match="refused"):
            job.node()
    assert list(temporary.iterdir()) == []
    with pytest.raises(UnprocessedError, match=r"node 0-3 failed: claims: refused"):
        job.reduce()
    ends = [start.state for start in standing.starts(job.plan)]
    assert ends == ["failed"] * 3
    assert job.run().verdict == "succeeded"


def refuse(*_):
    raise StorageError("claims", "refused")


def test_lost_node_is_named_and_its_next_attempt_finishes_the_job(job, echo):
    job.files(40).split(echo, node_count=2, process_count_per_node=1)
    plan = job.plan
    started = start_attempt(plan.store, 1)  # a node that claims and is never heard of again
    claims = Claims(plan, started, range(len(plan.chunk_starts)))
    lost = claims.next()
    job.node(0)
    with pytest.raises(UnprocessedError) as caught:
        job.reduce()
    first = plan.chunk_starts[lost]
    assert caught.value.ordinals == list(range(first, first + plan.chunk_size(lost)))
    assert "node 1-1 was lost without a word" in str(caught.value)
    assert job.result()["counts"]["unprocessed"] == len(caught.value.ordinals)
    job.node(1)
    result = job.reduce()
    assert result.round == 1
    assert job.rows() == job.names(40)
    assert set(job.calls().values()) == {1}


def test_retried_node_owns_what_its_index_claimed_before_the_seal(job, echo):
    job.files(40).split(echo, process_count_per_node=1)
    started = start_attempt(job.plan.store, 0)
    claims = Claims(job.plan, started, range(len(job.plan.chunk_starts)))
    assert {claims.next(), claims.next()} == {0, 1}
    job.run()
    assert job.rows() == job.names(40)


def test_next_round_redoes_failed_mini_batches_and_nothing_else(job):
    script = """
        def run(mini_batch):
            called(mini_batch)
            if mini_batch[0].endswith("3") and not os.path.exists(MENDED):
                raise ValueError("broken")
            return [os.path.basename(path) for path in mini_batch]
    """.replace("MENDED", repr(str(job.folder / "mended")))
    job.files(20).split(script, run_max_try=1, error_threshold=2, process_count_per_node=1).run()
    assert job.rows() == job.names(20, without={3, 13})
    before = job.calls()
    (job.folder / "mended").touch()
    result = job.run()
    assert (result.round, result.verdict) == (1, "succeeded")
    assert job.rows() == job.names(20)
    assert job.calls() - before == {"00003": 1, "00013": 1}
    assert not Path(job.plan.run_dir, names.seal(2)).exists()


def test_a_stale_abort_does_not_fail_the_next_round(job):
    script = """
        import time
        def run(mini_batch):
            called(mini_batch)
            if not os.path.exists(MENDED):
                time.sleep(0.01)
                raise ValueError("broken")
            return [os.path.basename(path) for path in mini_batch]
    """.replace("MENDED", repr(str(job.folder / "mended")))
    job.files(600).split(script, run_max_try=1, error_threshold=2)
    outcome = job.node()
    assert outcome.outcome == "aborted"
    assert len(job.calls()) < 600
    assert "items failed, error_threshold is 2" in outcome.message
    with pytest.raises(ThresholdExceededError):
        job.reduce()
    (job.folder / "mended").touch()
    assert job.run().verdict == "succeeded"
    assert job.rows() == job.names(600)


def test_two_attempts_of_one_node_at_once_commit_every_row_once(job):
    script = """
        import time
        def run(mini_batch):
            time.sleep(0.02)
            return [f"{os.path.basename(path)}" for path in mini_batch]
    """
    job.files(100).split(script)
    nodes = [start_node(job), start_node(job)]
    codes = sorted(node.wait(timeout=60) for node in nodes)
    assert codes in ([0, 0], [0, 1])  # the older one may find itself superseded
    job.reduce()
    assert job.rows() == job.names(100)


def test_frozen_attempt_that_wakes_up_after_its_successor_changes_nothing(job):
    script = """
        import time
        def run(mini_batch):
            time.sleep(0.05)
            return [os.path.basename(path) for path in mini_batch]
    """
    job.files(60).split(script)
    frozen = start_node(job)
    journal = Path(job.plan.run_dir) / "journal" / "0-1-0.jsonl"
    wait_for(lambda: len(journalled(journal)) > 2)
    os.kill(frozen.pid, signal.SIGSTOP)
    job.run()
    published = (job.output / "parallel_run_step.txt").read_bytes()
    os.kill(frozen.pid, signal.SIGCONT)
    frozen.wait(timeout=60)
    assert job.rows() == job.names(60)
    job.reduce()
    assert (job.output / "parallel_run_step.txt").read_bytes() == published


def test_frozen_attempt_that_has_a_successor_commits_and_counts_nothing_more(job):
    script = """
        import time
        def run(mini_batch):
            called(mini_batch)
            name = os.path.basename(mini_batch[0])
            while name > "00003" and not os.path.exists(GO):
                time.sleep(0.01)
            if name > "00003":
                raise ValueError("broken")
            return [name]
    """.replace("GO", repr(str(job.folder / "go")))
    # Counted twice, the two failures would exceed the threshold.
    job.files(6).split(script, run_max_try=1, error_threshold=3)
    run_dir = Path(job.plan.run_dir)
    journal = run_dir / "journal" / "0-1-0.jsonl"
    frozen = start_node(job)
    wait_for(lambda: len(job.calls()) == 6 and len(journalled(journal)) == 4)
    os.kill(frozen.pid, signal.SIGSTOP)
    committed = journal.read_bytes()
    (job.folder / "go").touch()
    # Both results lie in the sockets, for the node to find when it wakes up.
    wait_for(lambda: len(list((job.output / "logs/user/error/0-1").glob("*"))) == 2)
    # So long may a node go without looking at others.
    time.sleep(CONTROL_INTERVAL_S)
    successor = job.node()
    os.kill(frozen.pid, signal.SIGCONT)
    assert frozen.wait(timeout=60) != 0
    assert journal.read_bytes() == committed
    assert [name for name in os.listdir(run_dir / "control/0") if name.startswith("0-1-0-0-")]
    end = json.loads((run_dir / "ends/0-1").read_text())
    assert end["outcome"] == "interrupted"
    assert "was started again elsewhere" in end["message"]
    assert (end["mini_batches_done"], successor.progress.mini_batches_failed) == (4, 2)
    assert job.reduce().counts.failed == 2
    assert job.rows() == job.names(4)


def test_torn_journal_line_and_damaged_segment_do_not_count(job, echo):
    job.files(10).split(echo, process_count_per_node=1).node()
    run_dir = Path(job.plan.run_dir)
    journal = run_dir / "journal" / "0-1-0.jsonl"
    journal.write_bytes(journal.read_bytes()[:-5])
    first, *_ = lines = journalled(journal)
    (segment, offset, _, _) = first.extents[0]
    with (run_dir / segment).open("r+b") as file:
        file.seek(offset)
        file.write(b"X")
    with pytest.raises(UnprocessedError) as caught:
        job.reduce()
    torn = set(range(10)) - {line.ordinal for line in lines}
    assert torn
    assert set(caught.value.ordinals) == torn | {first.ordinal}
    job.run()
    assert job.rows() == job.names(10)


def test_flooded_output_is_in_the_file_and_bounded_in_the_log(job, caplog):
    script = """
        def run(mini_batch):
            for number in range(20000):
                print("line", number, "x" * 50)
            return mini_batch
    """
    caplog.set_level("INFO", logger="airflow_parallelrun.entry_script")
    job.files(1).split(script, process_count_per_node=1).run()
    log = job.output / "logs/user/stdout/0-1/process000.stdout.txt"
    assert len(log.read_text().splitlines()) == 20000
    assert 0 < len(caplog.text) < 300_000
    assert "bytes are not shown" in caplog.text


def test_the_tag_is_not_taken_from_the_users_variables(job, echo):
    job.files(1).split(echo, environment_variables={"A": "1"})
    assert TAG_VARIABLE.startswith("PARALLELRUN_")
    with pytest.raises(ValueError, match="PARALLELRUN_"):
        job.request(environment_variables={TAG_VARIABLE: "x"})


def test_a_death_is_noticed_although_a_forked_child_keeps_the_socket_open(job):
    script = """
        import time
        def run(mini_batch):
            if mini_batch[0].endswith("2"):
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(7)
            return [os.path.basename(path) for path in mini_batch]
    """
    job.files(5).split(script, run_max_try=1, error_threshold=1, process_count_per_node=1).run()
    assert job.rows() == job.names(5, without={2})
    (line,) = job.failed_items()
    assert line["error"]["message"] == "the process exited with status 7"


def test_more_segments_than_a_process_may_open(job, monkeypatch):
    monkeypatch.setattr(ledger, "SEGMENTS_OPEN", 2)
    script = """
        calls = 0
        def run(mini_batch):
            global calls
            calls += 1
            if calls > 2:
                os._exit(1)
            return [os.path.basename(path) for path in mini_batch]
    """
    # How many results of a process are out when it dies is a matter of luck, and so is who is charged.
    job.files(20).split(script, process_count_per_node=1, run_max_try=50).run()
    assert job.rows() == job.names(20)
    assert len(list(Path(job.plan.run_dir, "segments").iterdir())) > 5


def test_processes_that_fail_in_init_do_not_end_a_node_on_which_others_work(job):
    script = """
        import time
        def init():
            first = os.path.join(FOLDER, "first")
            try:
                os.close(os.open(first, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                raise MemoryError("the device is taken")
        def run(mini_batch):
            time.sleep(0.3)
            return [os.path.basename(path) for path in mini_batch]
    """.replace("FOLDER", repr(str(job.folder)))
    job.files(12).split(script).run()
    assert job.rows() == job.names(12)


def test_interpreter_that_is_not_there_is_a_configuration_error(job, echo):
    job.files(1).split(echo, environment=Environment(python="/no/such/python"))
    with pytest.raises(ConfigurationError, match="'/no/such/python' cannot be started on this machine"):
        job.node()
