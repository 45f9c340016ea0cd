# SPDX-License-Identifier: Apache-2.0
"""What a person is told of a process that died: signal, memory, and the line of the script that did it."""

from __future__ import annotations

import json

import pytest

from airflow_parallelrun.engine.deaths import NO_STACK, Exit, describe_exit, last_stack, memory_limit
from airflow_parallelrun.exceptions import ThresholdExceededError

_THREADS = """\
some words of the script
Thread 0x00007f01 [helper] (most recent call first):
  File "/code/score.py", line 90 in watch
  File "/lib/threading.py", line 5 in run

Thread 0x00007f02 (most recent call first):
  File "/lib/json.py", line 7 in decode
  File "/code/score.py", line 12 in run
"""
_CRASH = """\
Fatal Python error: Segmentation fault

Current thread 0x00007f01 (most recent call first):
  File "/code/model.py", line 3 in predict
  File "/code/score.py", line 12 in run

Thread 0x00007f02 (most recent call first):
  File "/code/score.py", line 90 in watch

Extension modules: numpy (total: 1)
"""


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exited with status 0"),
        (3, "exited with status 3"),
        (-9, "SIGKILL, as the kernel does when memory runs out; it had used up to 3.00 GiB of"),
        (-11, "SIGSEGV"),
        (-63, "signal 63"),
    ],
)
def test_ends_in_words(status: int, text: str) -> None:
    assert text in describe_exit(Exit(status, 3 << 30))


def test_a_memory_limit_is_known() -> None:
    assert memory_limit() > 1 << 20


@pytest.mark.parametrize(
    ("written", "frame", "first"),
    [
        (_THREADS, "score.py, line 12, in run", '  File "/lib/json.py", line 7 in decode'),
        (_CRASH, "model.py, line 3, in predict", '  File "model.py", line 3 in predict'),
        (_CRASH + _THREADS.replace("(most recent", "(least recent"), "model.py, line 3, in predict", ""),
    ],
)
def test_a_stack_in_a_log(tmp_path, written: str, frame: str, first: str) -> None:
    (tmp_path / "stderr").write_text(written)
    stack = last_stack(str(tmp_path / "stderr"), "/code")
    assert stack.frame == frame
    assert first in stack.text
    assert "watch" not in stack.text


@pytest.mark.parametrize("written", ["", "Thread 0x1 (most recent call first):\n", "\xff\x00 words"])
def test_no_stack_in_a_log(tmp_path, written: str) -> None:
    (tmp_path / "stderr").write_text(written, encoding="latin-1")
    assert last_stack(str(tmp_path / "stderr"), "/code") == NO_STACK
    assert last_stack(str(tmp_path / "none"), "/code") == NO_STACK


_STALLS = """
import ctypes
def wait():
    {wait}
def run(mini_batch):
    wait()
"""


@pytest.mark.parametrize(
    ("wait", "kind"),
    [
        ("ctypes.CDLL(None).sleep(60)", "RunInvocationTimeout"),
        ("ctypes.PyDLL(None).sleep(60)", "RunInvocationTimeout"),  # with the GIL
        ("ctypes.string_at(0)", "ProcessDied"),
    ],
)
def test_the_verdict_names_the_line_that_hung_or_crashed(job, wait: str, kind: str) -> None:
    job.files(1).split(_STALLS.format(wait=wait), run_max_try=1, run_invocation_timeout=1)
    job.node()
    with pytest.raises(ThresholdExceededError) as failed:
        job.reduce()
    assert f"{kind}: " in str(failed.value)
    assert "in wait" in str(failed.value)
    (line,) = (job.output / "failed_items.jsonl").read_text().splitlines()
    error = json.loads(line)["error"]
    assert error["frame"].endswith(", in wait")
    with open(error["log"]) as log:
        assert "most recent call first" in log.read()


def test_one_that_is_killed_has_its_memory_in_the_message(job) -> None:
    script = """
import signal
def run(mini_batch):
    held = bytearray(300 << 20)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    job.files(1).split(script, run_max_try=1)
    job.node()
    with pytest.raises(ThresholdExceededError, match=r"as the kernel does .* used up to 0\.[3-9]\d GiB of"):
        job.reduce()
