# SPDX-License-Identifier: Apache-2.0
"""A worker process as it is: started from its file, spoken to over its socket."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import zlib

import pytest

from airflow_parallelrun.datasets import ListedFile
from airflow_parallelrun.engine.items import ItemWriter
from airflow_parallelrun.engine.journal import parse
from airflow_parallelrun.engine.names import MINI_BATCHES, MINI_BATCHES_INDEX
from airflow_parallelrun.engine.store import Store
from airflow_parallelrun.worker import bootstrap, page, protocol
from airflow_parallelrun.worker.protocol import Result

ECHO = "def run(mini_batch): return mini_batch\n"


class Desk:
    """The node's side: a socket, the page, the segment."""

    def __init__(self, folder, parent=None):
        self.folder = folder
        (folder / "source").mkdir()
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(60)
        self.segment_fd = os.open(folder / "segment", os.O_RDWR | os.O_CREAT)
        page_fd = os.open(folder / "page", os.O_RDWR | os.O_CREAT)
        os.ftruncate(page_fd, page.SIZE)
        self.page = page.Page(page_fd)
        self.page.write(page.INIT)
        fds = (theirs.fileno(), page_fd, self.segment_fd)
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, bootstrap.__file__, "process", *map(str, fds), str(parent or os.getpid())],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=fds, cwd=folder / "source",
                env={"PATH": os.environ["PATH"]}, start_new_session=True,
            )  # fmt: skip
        theirs.close()
        os.close(page_fd)
        self._write_plan()
        self.messages, self.inbox = protocol.MessageReader(), []

    def _write_plan(self):
        """Mini-batches of two files each."""
        items = ItemWriter()
        for ordinal in range(60):
            files = []
            for name in (f"u{ordinal}a", f"u{ordinal}b"):
                path = self.folder / "source" / name
                path.touch()
                files.append(ListedFile(name, 0, path.stat().st_mtime_ns, None))
            items.add(0, files)
        items.write(Store(str(self.folder)))

    def start(self, script, **changes):
        path = self.folder / "source" / "score.py"
        path.write_text(textwrap.dedent(script))
        settings = {
            "entry_script": str(path),
            "source_directory": str(self.folder / "source"),
            "arguments": [],
            "append_row": True,
            "logging_level": "INFO",
            "agent_name": "process000",
            "log_dir": str(self.folder / "logs"),
            "output_dir": str(self.folder / "output"),
            "error_log": str(self.folder / "errors" / "process000.txt"),
            "segment": "segments/0-1-0-0",
            "item_files": [str(self.folder / name) for name in (MINI_BATCHES, MINI_BATCHES_INDEX)],
            "sources": [{"type": "file"}],
        }
        self.send("start", {**settings, **changes})
        assert self.hear() == ["hello", protocol.VERSION]
        return self

    def send(self, *message):
        self.channel.sendall(protocol.encode(list(message)))

    def feed(self, *ordinals, first=0):
        """Feed mini-batches, each as one that is special."""
        self.send("run", [[first + n, ordinal, 1] for n, ordinal in enumerate(ordinals)])

    def hear(self):
        """The next message; None at the end of the stream."""
        while not self.inbox:
            try:
                data = self.channel.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.inbox += self.messages.feed(data)
        return self.inbox.pop(0)

    def results(self, count):
        """The next so many results, without how long they took; a streak's as if they had come alone."""
        found = []
        while len(found) < count:
            kind, *values = self.hear()
            if kind == "streak":
                found += self.results_of(*values)
            else:
                assert kind == "result"
                found.append(Result(*values)._replace(seconds=0, cpu_seconds=0))
        return found

    def results_of(self, feed, count, items, run_seconds, seconds, row_bytes, line):
        streak = parse(line)
        assert (len(streak.items), sum(streak.items), sum(streak.lengths)) == (count, items, row_bytes)
        assert run_seconds == pytest.approx(sum(streak.run_us) / 1e6)
        assert 0 <= run_seconds <= seconds
        assert zlib.crc32(self.rows(streak.offset, sum(streak.lengths))) == streak.crc32
        for place, line in enumerate(streak.lines()):
            ((segment, offset, length, _),) = line.extents or [("", 0, 0, 0)]
            assert segment in ("", streak.segment)
            crc32 = zlib.crc32(self.rows(offset, length))
            counts = line.items_in, line.items_ok, line.rows_out
            yield Result(feed + place, line.ordinal, "ok", *counts, offset, length, crc32, 0, 0, None)

    def rows(self, offset=0, length=1000):
        return os.pread(self.segment_fd, length, offset)

    def ready(self):
        kind, seconds = self.hear()
        assert kind == "ready"
        assert seconds >= 0
        return self

    def end(self):
        """Ask it to leave, and return what it said and its exit status."""
        self.send("stop")
        last = self.hear()
        assert self.hear() is None
        return last, self.process.wait()

    def read(self, name):
        return (self.folder / name).read_text()

    def close(self):
        self.channel.close()
        self.process.kill()
        self.process.wait()
        self.page.close()
        os.close(self.segment_fd)


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def ok(feed, ordinal, offset, rows, **values):
    return Result(feed, ordinal, "ok", 2, 2, 2, offset, len(rows), zlib.crc32(rows), 0, 0, None)._replace(
        **values
    )


def test_a_life(desk):
    desk.start("""
        def init(): print("in init")
        def run(mini_batch): print("in run"); return mini_batch
        def shutdown(): print("in shutdown")
    """).ready()
    desk.feed(10, 11)
    desk.feed(12, first=2)
    rows = [f"u{o}a\nu{o}b\n".encode() for o in (10, 11, 12)]
    assert desk.results(3) == [ok(n, 10 + n, 10 * n, rows[n]) for n in range(3)]
    assert os.pread(desk.segment_fd, 100, 0) == b"".join(rows)
    assert desk.end() == (["bye"], 0)
    assert desk.read("out").split("\n")[:-1] == ["in init", "in run", "in run", "in run", "in shutdown"]
    assert desk.page.read().phase == page.SHUTDOWN


def test_what_is_queued_is_done_before_it_leaves(desk):
    desk.start(ECHO).ready()
    desk.feed(*range(50))
    desk.send("stop")
    assert [result.ordinal for result in desk.results(50)] == list(range(50))
    assert desk.hear() == ["bye"]


def test_neighbours_that_succeed_come_as_one_streak(desk):
    desk.start("""
        def run(mini_batch):
            if mini_batch[0] == "u7a": raise ValueError(mini_batch)
            return mini_batch if mini_batch[0] != "u3a" else [*mini_batch, "more"]
    """).ready()
    desk.send("run", [[0, 0, 10], [10, 40, 2], [12, 50, 1, 2], [13, 51, 2]])
    results = desk.results(15)
    assert [result.feed for result in results] == list(range(15))
    assert [result.ordinal for result in results] == [*range(10), 40, 41, 50, 51, 52]
    assert [result.status for result in results] == ["ok"] * 7 + ["failed"] + ["ok"] * 7
    assert [result.rows_out for result in results] == [2, 2, 2, 3, 2, 2, 2, 0, *[2] * 7]
    names = [f"u{n}{x}" for n in [*range(7), 8, 9, 40, 41, 50, 51, 52] for x in "ab"]
    names.insert(8, "more")
    assert desk.rows().decode().split() == names


def test_a_part_of_a_mini_batch(desk):
    desk.start("def run(mini_batch, context): return [context.minibatch_index, *mini_batch][:1]\n").ready()
    desk.send("run", [[0, 5, 1, 2, 1, 1], [1, 5, 1, 2]])
    part, whole = desk.results(2)
    assert (part.status, part.items_in, part.ordinal) == ("ok", 1, 5)
    assert (whole.status, whole.items_in, whole.items_ok) == ("short", 2, 1)
    assert desk.rows() == b"5.1\n5\n"


def test_a_script_may_take_from_its_list_what_it_likes(desk):
    desk.start("""
        def run(mini_batch):
            rows = []
            while mini_batch:
                rows.append(mini_batch.pop())
            return rows
    """).ready()
    desk.send("run", [[0, 5, 1], [1, 6, 1, 2], [2, 7, 1, 1, 0, 1]])
    results = desk.results(3)
    assert [(each.status, each.items_in, each.items_ok) for each in results] == [
        ("ok", 2, 2),
        ("ok", 2, 2),
        ("ok", 1, 1),
    ]


def test_a_plan_that_cannot_be_read_is_a_fault_of_the_store(desk):
    (desk.folder / MINI_BATCHES).write_text("")
    desk.start(ECHO).ready()
    desk.feed(3)
    kind, name, message = desk.hear()
    assert (kind, name) == ("fault", MINI_BATCHES)
    assert message.startswith("mini-batch 3 cannot be read: ")
    assert desk.process.wait() == 1


def test_fewer_and_more_and_none(desk):
    desk.start("""
        def run(mini_batch):
            return {"u0a": [], "u1a": ["x"], "u2a": [1, 2, 3], "u3a": None}[mini_batch[0]]
    """).ready()
    desk.feed(0, 1, 2, 3)
    nothing, fewer, more, none = desk.results(4)
    assert (nothing.status, nothing.items_ok, nothing.rows_out, nothing.length) == ("short", 0, 0, 0)
    assert (fewer.status, fewer.items_ok, fewer.rows_out) == ("short", 1, 1)
    assert fewer.error["message"] == "run() returned 1 elements for 2 items"
    assert (more.status, more.items_ok, more.rows_out) == ("ok", 2, 3)
    assert (none.status, none.items_ok, none.error["type"]) == ("failed", 0, "ReturnValueError")


@pytest.mark.parametrize(
    "statement",
    ["raise ValueError('x')", "import sys; sys.exit(3)", "raise KeyboardInterrupt", "raise Exception"],
)
def test_errors_are_told_and_the_next_one_runs(desk, statement):
    desk.start(f"""
        def run(mini_batch):
            if mini_batch[0] == "u0a":
                {statement}
            return mini_batch
    """).ready()
    desk.feed(0, 1)
    failed, good = desk.results(2)
    assert (failed.status, failed.items_in, failed.rows_out) == ("failed", 2, 0)
    assert failed.error["frame"] == "score.py, line 4, in run"
    assert good == ok(1, 1, 0, b"u1a\nu1b\n")
    assert "mini-batch 0" in desk.read("errors/process000.txt")


def test_a_row_that_cannot_be_written_as_text_fails_its_mini_batch_alone(desk):
    desk.start("""
        class Bad:
            def __str__(self): raise RuntimeError("no text")
        def run(mini_batch): return [Bad(), Bad()] if mini_batch[0] == "u0a" else ["\\ud800", "x"]
    """).ready()
    desk.feed(0, 1)
    assert [result.error["type"] for result in desk.results(2)] == ["RuntimeError", "UnicodeEncodeError"]
    assert os.pread(desk.segment_fd, 100, 0) == b""


def test_revoked_ones_are_skipped(desk):
    desk.start(ECHO).ready()
    desk.page.revoke(2)
    desk.feed(7, 8, 9)
    results = desk.results(3)
    assert [result.status for result in results] == ["skipped", "skipped", "ok"]
    assert [(result.feed, result.ordinal) for result in results] == [(0, 7), (1, 8), (2, 9)]


def test_the_page_says_what_runs(desk):
    desk.start("""
        def run(mini_batch):
            with open("../" + mini_batch[0]) as file:
                file.read()
            return mini_batch
    """).ready()
    for ordinal in (41, 42):
        os.mkfifo(desk.folder / f"u{ordinal}a")
    desk.feed(41, 42)
    for feed, ordinal in enumerate((41, 42)):
        with open(
            desk.folder / f"u{ordinal}a", "w"
        ):  # opens when run() opens it, which returns when it is closed here
            state = desk.page.read()
            assert state[:3] == (page.RUN, ordinal, feed)
    desk.results(2)
    assert desk.end()[0] == ["bye"]
    assert desk.page.read().phase == page.SHUTDOWN


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("def init(): raise RuntimeError('no weights')\n" + ECHO, "no weights"),
        ("import nothing_like_this\n" + ECHO, "nothing_like_this"),
        ("def init(): exit(5)\n" + ECHO, "5"),
    ],
)
def test_init_that_fails_is_told_and_the_process_leaves(desk, script, words):
    kind, error = desk.start(script).hear()
    assert kind == "init_failed"
    assert words in error["message"]
    assert words in desk.read("errors/process000.txt")
    assert desk.hear() is None
    assert desk.process.wait() == 0


def test_a_broken_contract_is_told(desk):
    assert desk.start("def init(): pass\n").hear() == [
        "contract",
        "the script has no function run(mini_batch)",
    ]
    assert desk.hear() is None


def test_a_failing_shutdown_fails_nothing(desk):
    desk.start(ECHO + "def shutdown(): raise RuntimeError('late')\n").ready()
    assert desk.end() == (["bye"], 0)
    assert "shutdown() failed" in desk.read("err")


def test_questions_are_asked_and_answered_while_work_arrives(desk):
    desk.start("""
        from azureml.core import Model
        def init():
            global path
            path = Model.get_model_path("net", version=2)
        def run(mini_batch): return [path, path]
    """)
    assert desk.hear() == ["ask", "model_path", {"name": "net", "version": 2}]
    desk.feed(0)
    desk.send("answer", True, ["/models/net", 2])
    desk.ready()
    assert desk.results(1)[0].rows_out == 2
    assert os.pread(desk.segment_fd, 100, 0) == b"/models/net\n/models/net\n"


def test_a_question_without_an_answer_is_the_scripts_error(desk):
    desk.start("from azureml.core import Model\ndef init(): Model.get_model_path('net')\n" + ECHO)
    desk.hear()
    desk.send("answer", False, "no such model")
    kind, error = desk.hear()
    assert kind == "init_failed"
    assert (error["type"], error["message"]) == ("LookupError", "no such model")


@pytest.mark.parametrize("where", ["init", "run", "idle"])
def test_when_the_node_is_gone_it_leaves_whatever_the_script_catches(desk, where):
    desk.start(f"""
        import threading, time
        from azureml.core import Model
        threading.Thread(target=time.sleep, args=(600,)).start()
        def ask(where):
            while where == {where!r}:
                try:
                    Model.get_model_path("net")
                except Exception:
                    pass
        def init(): ask("init")
        def run(mini_batch): ask("run"); return mini_batch
    """)
    if where != "init":
        desk.ready()
    if where == "run":
        desk.feed(0)
    if where != "idle":
        assert desk.hear()[0] == "ask"
    desk.channel.close()
    assert desk.process.wait(timeout=30) == 0


def test_a_node_that_is_gone_without_having_read_everything(desk):
    desk.start("""
        import threading, time
        threading.Thread(target=time.sleep, args=(600,)).start()
        def run(mini_batch):
            if mini_batch[0] == "u1a":
                with open("../fifo") as file:
                    file.read()
            return mini_batch
    """).ready()
    os.mkfifo(desk.folder / "fifo")
    desk.feed(0)
    select.select([desk.channel], [], [])
    desk.feed(1, first=1)
    with open(desk.folder / "fifo", "w"):
        desk.channel.close()
    assert desk.process.wait(timeout=30) == 0


def test_the_script_has_none_of_our_descriptors_and_modules(desk):
    desk.start("""
        import os, subprocess, sys
        def run(mini_batch):
            listed = subprocess.run(["ls", "/proc/self/fd"], capture_output=True, text=True, close_fds=False)
            ours = [name for name in sys.modules if "parallelrun" in name and not name.startswith("_")]
            return [len(listed.stdout.split()) <= 4, ours]
    """).ready()
    desk.feed(0)
    desk.results(1)
    assert os.pread(desk.segment_fd, 100, 0) == b"True\n[]\n"


def test_logging_goes_to_the_files(desk):
    desk.start("""
        import logging, sys
        from azureml_user.parallel_run import EntryScript
        def run(mini_batch):
            logging.getLogger("mine").info("by logging")
            logging.debug("not shown")
            print("to stderr", file=sys.stderr)
            EntryScript().logger.info("by the original's logger")
            return mini_batch
    """).ready()
    desk.feed(0)
    desk.results(1)
    assert "INFO mine: by logging\n" in desk.read("out")
    assert "not shown" not in desk.read("out")
    assert desk.read("err") == "to stderr\n"
    assert desk.read("logs/process000.log.txt").endswith("INFO entry_script: by the original's logger\n")


def test_a_segment_that_cannot_be_written_is_a_fault_and_no_result(desk):
    desk.start("""
        import resource, sys
        def init():
            sys.modules["_parallelrun_worker.output"]._WRITE_TRIES = 1
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        def run(mini_batch): return mini_batch
    """).ready()
    desk.feed(0, 1)
    messages = []
    while (message := desk.hear()) is not None:
        messages.append(message)
    assert messages == [["fault", "segments/0-1-0-0", "[Errno 27] File too large"]]
    assert desk.process.wait() == 1


def test_an_orphan_leaves_at_once(tmp_path):
    desk = Desk(tmp_path, parent=1)
    try:
        assert desk.hear() is None
        assert desk.process.wait(timeout=30) == 0
    finally:
        desk.close()


def test_it_leads_its_own_session_and_ignores_ctrl_c(desk):
    desk.start(ECHO).ready()
    assert os.getsid(desk.process.pid) == desk.process.pid
    desk.process.send_signal(signal.SIGINT)
    desk.feed(0)
    assert desk.results(1)[0].status == "ok"


def test_an_unknown_message_ends_it_with_words(desk):
    desk.start(ECHO).ready()
    desk.send("dance")
    assert desk.hear() is None
    assert desk.process.wait() == 1
    assert "unexpected message from the node: dance" in desk.read("err")
