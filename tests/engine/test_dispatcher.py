# SPDX-License-Identifier: Apache-2.0
"""R7: who gets which mini-batch, and who is charged when a process dies. No process is started here."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from fake_process import GONE, FakeProcess
from workbench import make_config, make_plan

from airflow_parallelrun.engine.dispatcher import STACK_S, WINDOW, Dispatcher
from airflow_parallelrun.engine.journal import Record, Streak, parse
from airflow_parallelrun.engine.portions import Portion
from airflow_parallelrun.exceptions import EntryScriptContractError, StorageError
from airflow_parallelrun.worker import page, protocol


def echo(subject, arguments, reply):
    reply(True, [subject, arguments])
    return True


def result(process, feed, status="ok", seconds=1e-4, error=None, **values):
    if status == "failed" and error is None:
        error = {"type": "ValueError", "message": "bad", "frame": "score.py, line 1", "traceback": "T"}
    if status == "short":
        error = {"type": "ShortReturn", "message": "0 of 1", "frame": None, "traceback": ""}
    ok = int(status == "ok")
    full = protocol.Result(feed, process.fed()[feed], status, 1, ok, ok, 0, 0, 0, seconds, seconds, error)
    return list(full._replace(**values))


class Bench:
    """A dispatcher with some fake processes."""

    def __init__(self, folder, processes=1, mini_batches=10, **config):
        self.folder = folder
        plan = make_plan(folder, mini_batches=1000, config=make_config(**config))
        items = SimpleNamespace(count=lambda ordinal: 1)
        self.dispatcher = Dispatcher(plan, items, echo)
        self.dispatcher.processes = [FakeProcess(n, folder / f"page{n}") for n in range(processes)]
        self.dispatcher.add([Portion(0, mini_batches)])

    def __getitem__(self, number):
        return self.dispatcher.processes[number]

    def hear(self, process, result):
        process.incoming.append(["result", *result])
        return self.dispatcher.receive(process)

    def hear_streak(self, process, feed, count, seconds=1e-3):
        first = process.fed()[feed]
        ones = [1] * count
        streak = Streak(first, process.name, process.segment, 0, 0, 1.0, ones, ones, ones, ones, ones, ones)
        process.incoming.append(["streak", feed, count, count, seconds, seconds, count, streak.encode()])
        return self.dispatcher.receive(process)

    @property
    def lines(self):
        entries = [parse(each.data) for each in self.dispatcher._tries.finished]
        return [line for entry in entries for line in Record(None, 0, entry, 0).lines()]

    def finished(self):
        return [(line.ordinal, line.status, line.tries) for line in self.lines]

    def waiting(self):
        queue = self.dispatcher._queue
        return [(portion.ordinal + n, portion.tries) for portion in queue for n in range(portion.length)]


@pytest.fixture
def bench(tmp_path):
    made = []

    def make(*args, **kwargs):
        made.append(Bench(tmp_path, *args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        for process in each.dispatcher.processes:
            process.page.close()


def open_window(bench, process, seconds=1e-4):
    """Have one quick mini-batch done, so that a window opens."""
    bench.dispatcher.feed(last=False)
    bench.hear(process, result(process, max(process.in_flight), seconds=seconds))


def busy_process(bench):
    """The first process, with a full window in front of it, and nothing finished that was not taken."""
    open_window(bench, bench[0])
    bench.dispatcher.feed(last=False)
    bench.dispatcher.take_finished()
    return bench[0]


def test_one_at_a_time_until_it_is_known_how_long_they_take(bench):
    bench = bench(processes=2, mini_batches=10)
    bench.dispatcher.feed(last=False)
    assert [process.fed() for process in (bench[0], bench[1])] == [{0: 0}, {0: 1}]
    bench.dispatcher.feed(last=False)
    assert (bench.dispatcher.queued, bench.dispatcher.outstanding) == (8, 10)


def test_about_20_ms_of_work_wait_in_front_of_a_process(bench):
    bench = bench(mini_batches=400)
    open_window(bench, bench[0], seconds=0.001)
    bench.dispatcher.feed(last=False)
    assert len(bench[0].in_flight) == 20
    assert list(bench[0].fed().values()) == list(range(21))


@pytest.mark.parametrize(
    ("seconds", "window"), [(0.0, WINDOW), (1e-9, WINDOW), (0.019, 2), (0.9, 2), (1.1, 1), (5.0, 1)]
)
def test_the_window_has_limits(bench, seconds, window):
    bench = bench(mini_batches=2 * WINDOW)
    open_window(bench, bench[0], seconds=seconds)
    bench.dispatcher.feed(last=False)
    assert len(bench[0].in_flight) == window


def test_the_last_ones_are_shared_out(bench):
    bench = bench(processes=2, mini_batches=22)
    bench.dispatcher.feed(last=False)
    for process in (bench[0], bench[1]):
        bench.hear(process, result(process, 0))
    bench.dispatcher.feed(last=True)
    assert [len(process.in_flight) for process in (bench[0], bench[1])] == [5, 3]
    assert bench.dispatcher.queued == 12


def test_beside_what_is_to_run_alone_nothing_runs(bench):
    bench = bench(processes=3, mini_batches=10, run_max_try=2)
    bench.dispatcher.feed(last=False)
    bench.dispatcher.add([Portion(20, alone=True), Portion(21, alone=True)])
    first, second, third = (bench[number] for number in range(3))
    for process, ordinal in ((first, 0), (second, 1), (third, 2)):
        bench.dispatcher.feed(last=False)
        assert list(process.fed().values()) == [ordinal]
        bench.hear(process, result(process, 0))
    announced = []
    bench.dispatcher._before_alone = lambda process, portion: announced.append((process.fed(), portion))
    bench.dispatcher.feed(last=False)
    bench.dispatcher.feed(last=True)
    assert announced == [({0: 0}, Portion(20, alone=True))]  # and then it is fed
    assert bench.dispatcher.idle == 2
    assert first.fed()[1] == 20
    first.runs(1)
    bench.dispatcher.bury(first)  # a try of it; it stays alone
    bench.dispatcher.feed(last=False)
    assert second.fed()[1] == 21
    bench.hear(second, result(second, 1))
    bench.dispatcher.feed(last=False)
    assert second.fed()[2] == 20
    assert len(third.fed()) == 1
    bench.hear(second, result(second, 2))
    bench.dispatcher.feed(last=False)
    assert second.fed()[3] == 3
    assert [ordinal for ordinal, *_ in bench.finished()] == [0, 1, 2, 21, 20]


def test_what_waits_in_front_of_a_process_makes_room_for_what_is_to_run_alone(bench):
    bench = bench(mini_batches=300)
    process = busy_process(bench)
    process.runs(3)
    for feed in (1, 2):
        bench.hear(process, result(process, feed))
    bench.dispatcher.add([Portion(500, alone=True)])
    bench.dispatcher.feed(last=False)
    assert list(process.in_flight) == [3]
    bench.hear(process, result(process, 3))
    bench.dispatcher.feed(last=False)
    assert list(process.fed().values())[-1] == 500
    assert [ordinal for ordinal, _ in bench.waiting()][:3] == [4, 5, 6]


def test_processes_that_start_or_stop_get_nothing(bench):
    bench = bench(processes=2)
    bench[0].ready = False
    bench[1].stopping = True
    bench.dispatcher.feed(last=True)
    assert bench.dispatcher.queued == 10
    bench[0].incoming.append(["ready", 0.25])
    bench.dispatcher.receive(bench[0])
    assert bench[0].ready
    assert bench.dispatcher.first_ready is not None
    bench.dispatcher.feed(last=False)
    assert len(bench[0].in_flight) == 1


def test_results_become_lines(bench):
    bench = bench()
    bench.dispatcher.feed(last=False)
    full = result(bench[0], 0, rows_out=3, offset=7, length=5, crc32=99)
    bench.hear(bench[0], full)
    (line,) = bench.lines
    assert (line.ordinal, line.status, line.tries, line.rows_out) == (0, "ok", 1, 3)
    assert line.extents == [("segments/0-1-0-0", 7, 5, 99)]
    assert line.error is None
    assert bench.dispatcher.outstanding == 9


def test_without_rows_there_is_no_extent(bench):
    bench = bench()
    bench.dispatcher.feed(last=False)
    bench.hear(bench[0], result(bench[0], 0, "short"))
    assert bench.lines[0].extents == []
    assert bench.lines[0].error["log"] == "stdout.txt"


def test_a_failed_one_is_tried_again_behind_the_others_until_its_tries_are_spent(bench):
    bench = bench(mini_batches=1, run_max_try=3)
    for tries in (1, 2):
        bench.dispatcher.feed(last=True)
        bench.hear(bench[0], result(bench[0], tries - 1, "failed"))
        assert bench.waiting() == [(0, tries + 1)]
        assert bench.finished() == []
    bench.dispatcher.feed(last=True)
    bench.hear(bench[0], result(bench[0], 2, "failed"))
    assert bench.finished() == [(0, "failed", 3)]


def test_a_streak_is_journalled_as_it_came(bench):
    bench = bench(mini_batches=300)
    open_window(bench, bench[0])
    bench.dispatcher.feed(last=False)
    bench.dispatcher.take_finished()
    before = bench.dispatcher.outstanding
    bench.hear_streak(bench[0], 1, 50)
    (finished,) = bench.dispatcher.take_finished()
    assert parse(finished.data).ordinals == range(1, 51)
    assert (finished.tally.done, finished.tally.items, finished.tally.failed) == (50, 50, 0)
    assert finished.segments == {"segments/0-1-0-0"}
    assert bench.dispatcher.outstanding == before - 50
    assert next(iter(bench[0].in_flight)) == 51


def test_a_streak_tells_how_long_they_take(bench):
    bench = bench(mini_batches=3000)
    open_window(bench, bench[0])
    bench.dispatcher.feed(last=False)
    bench.hear_streak(bench[0], 1, 100, seconds=0.2)
    assert bench[0].seconds_mean == pytest.approx(0.002)
    assert len(bench[0].in_flight) > 10
    for _ in range(2):
        bench.dispatcher.feed(last=False)
    assert len(bench[0].in_flight) == 100


def test_of_a_streak_those_that_were_taken_back_do_not_count(bench):
    bench = bench(processes=2, mini_batches=30)
    one, _ = one_busy_one_idle(bench)
    bench.dispatcher.feed(last=True)  # takes back all but the one that runs
    bench.dispatcher.take_finished()
    before = bench.dispatcher.outstanding
    bench.hear_streak(one, 1, 3)
    (finished,) = bench.dispatcher.take_finished()
    streak = parse(finished.data)
    kept = one.fed()[1]
    assert [line.ordinal for line in streak.lines()] == [kept]
    assert list(streak.without) == [one.fed()[2], one.fed()[3]]
    assert finished.tally.done == 1
    assert bench.dispatcher.outstanding == before - 1
    bench.hear_streak(one, 2, 2)
    assert bench.dispatcher.take_finished() == []


def test_a_streak_in_which_one_was_over_its_limit(bench):
    bench = bench(mini_batches=300, run_max_try=1)
    process = busy_process(bench)
    process.runs(3, seconds_ago=1000)
    bench.dispatcher.check_deadlines()
    bench.hear_streak(process, 1, 5)
    assert [ordinal for ordinal, _, _ in bench.finished()] == [1, 2, 4, 5]
    bench.dispatcher.bury(process)
    assert bench.finished()[-1] == (3, "failed", 1)


def test_a_short_one_is_not_tried_again(bench):
    bench = bench(mini_batches=1, run_max_try=3)
    bench.dispatcher.feed(last=True)
    bench.hear(bench[0], result(bench[0], 0, "short"))
    assert bench.finished() == [(0, "short", 1)]


def test_an_input_that_is_gone_is_not_tried_again(bench):
    bench = bench(mini_batches=1, run_max_try=3)
    bench.dispatcher.feed(last=True)
    error = {"type": "InputChangedError", "message": "gone", "frame": None, "traceback": ""}
    bench.hear(bench[0], result(bench[0], 0, "failed", error=error))
    assert bench.finished() == [(0, "failed", 1)]


def test_full_tracebacks_of_a_kind_of_error_are_few(bench):
    bench = bench(mini_batches=10, run_max_try=1)
    for feed in range(6):
        bench.dispatcher.feed(last=True)
        while feed not in bench[0].fed():
            bench.dispatcher.feed(last=True)
        bench.hear(bench[0], result(bench[0], feed, "failed"))
    tracebacks = [line.error["traceback"] for line in bench.lines]
    assert tracebacks == ["T"] * 3 + [""] * 3
    assert {line.error["log"] for line in bench.lines} == {"error.txt"}


def test_failures_are_logged_and_a_million_of_them_are_few_lines(bench, caplog):
    caplog.set_level("INFO", logger="airflow_parallelrun")
    bench = bench(mini_batches=6, run_max_try=2)
    for feed in range(12):
        bench.dispatcher.feed(last=True)
        bench.hear(bench[0], result(bench[0], feed, "failed"))
    cause = "ValueError: bad (score.py, line 1)"
    again = [f"mini-batch {n}, try 1 of 2, failed and will be tried again: {cause}" for n in range(3)]
    for_good = [f"mini-batch {n}, try 2 of 2, failed: {cause}" for n in range(3)]
    for lines in (again, for_good):
        lines[-1] += " (no more of this kind are logged here)"
    assert [record.message for record in caplog.records] == again + for_good


@pytest.mark.parametrize("phase", [page.LOAD, page.RUN, page.WRITE])
def test_a_death_charges_the_one_that_ran_and_frees_the_others_in_order(bench, phase):
    bench = bench(mini_batches=300, run_max_try=1)
    process = busy_process(bench)
    before = bench.dispatcher.outstanding
    process.runs(3, phase)
    bench.dispatcher.bury(process)
    assert bench.finished() == [(3, "failed", 1)]
    assert bench.lines[0].error["type"] == "ProcessDied"
    assert "SIGKILL" in bench.lines[0].error["message"]
    assert bench.dispatcher.outstanding == before - 1
    assert [ordinal for ordinal, _ in bench.waiting()][:4] == [1, 2, 4, 5]
    assert {tries for _, tries in bench.waiting()} == {1}
    assert bench.dispatcher.processes == []


def test_a_death_with_tries_left_is_a_try(bench):
    bench = bench(mini_batches=2, run_max_try=2)
    bench.dispatcher.feed(last=False)
    process = bench[0]
    process.runs(0)
    bench.dispatcher.bury(process)
    assert sorted(bench.waiting()) == [(0, 2), (1, 1)]
    assert bench.dispatcher.fruitless == 0


@pytest.mark.parametrize("phase", [page.IDLE, page.INIT, page.SHUTDOWN])
def test_a_death_while_nothing_runs_charges_nobody(bench, phase):
    bench = bench(mini_batches=5, run_max_try=1)
    bench.dispatcher.feed(last=False)
    process = bench[0]
    process.page.write(phase)
    bench.dispatcher.bury(process)
    assert bench.finished() == []
    assert sorted(bench.waiting()) == [(n, 1) for n in range(5)]
    assert bench.dispatcher.fruitless == 1


def test_one_that_is_finished_and_reported_is_not_charged(bench):
    bench = bench(mini_batches=300, run_max_try=1)
    process = busy_process(bench)
    process.runs(1)
    bench.hear(process, result(process, 1))
    bench.dispatcher.bury(process)  # the page still names it
    assert bench.finished() == [(1, "ok", 1)]
    assert 1 not in dict(bench.waiting())


def test_a_death_in_init_tells_the_scripts_own_words(bench):
    bench = bench()
    bench[0].ready = False
    process = bench[0]
    error = {"type": "E", "message": "no weights", "frame": "score.py, line 3", "traceback": "Traceback"}
    process.incoming.append(["init_failed", error])
    process.incoming.append(GONE)
    assert bench.dispatcher.receive(process)
    assert not bench.dispatcher.receive(process)
    bench.dispatcher.bury(process)
    assert bench.dispatcher.last_failure.text == "E: no weights (score.py, line 3)"
    assert bench.dispatcher.last_failure.traceback == "Traceback"
    assert bench.dispatcher.fruitless == 1


@pytest.mark.parametrize(
    ("phase", "limit", "text"),
    [
        (page.RUN, 60, "run() took longer than 60 s (run_invocation_timeout)"),
        (page.LOAD, 600, "loading the mini-batch took longer than 600 s (task_overhead_timeout)"),
        (page.WRITE, 600, "writing the rows took longer than 600 s (task_overhead_timeout)"),
    ],
)
def test_each_phase_has_its_limit(bench, phase, limit, text):
    bench = bench(mini_batches=1, run_max_try=1)
    bench.dispatcher.feed(last=True)
    process = bench[0]
    process.runs(0, phase, seconds_ago=limit - 5)
    bench.dispatcher.check_deadlines()
    assert not process.killed
    process.runs(0, phase, seconds_ago=limit + 1)
    bench.dispatcher.check_deadlines()
    assert (process.asked, process.killed) == (1, False)
    time.sleep(STACK_S)
    bench.dispatcher.check_deadlines()
    assert (process.asked, process.killed) == (1, True)
    bench.dispatcher.bury(process)
    (line,) = bench.lines
    assert line.error["message"] == text
    assert line.error["type"] == ("RunInvocationTimeout" if phase == page.RUN else "OverheadTimeout")
    assert line.error["log"] == "stderr.txt"


@pytest.mark.parametrize(
    ("phase", "limit", "text"),
    [
        (page.INIT, 210, "init() took longer than 210 s"),
        (page.SHUTDOWN, 30, "shutdown() took longer than 30 s (shutdown_timeout)"),
    ],
)
def test_limits_outside_of_mini_batches(bench, phase, limit, text):
    bench = bench(mini_batches=1)
    process = bench[0]
    process.runs(-1, phase, seconds_ago=limit + 1)
    bench.dispatcher.check_deadlines()
    bench.dispatcher.bury(process)
    assert text in bench.dispatcher.last_failure.text
    assert bench.finished() == []


def test_an_idle_process_may_wait_for_ever(bench):
    bench = bench()
    bench[0].runs(-1, page.IDLE, seconds_ago=10**6)
    bench.dispatcher.check_deadlines()
    assert not bench[0].killed


def test_one_that_ends_after_its_limit_has_failed_and_the_next_one_is_free(bench):
    bench = bench(mini_batches=300, run_max_try=1)
    process = busy_process(bench)
    process.runs(3, seconds_ago=1000)
    bench.dispatcher.check_deadlines()
    process.runs(4)  # the signal that asked for the stack woke it up
    bench.hear(process, result(process, 3))
    bench.dispatcher.feed(last=False)
    assert bench.finished() == []
    bench.dispatcher.bury(process)
    assert bench.finished() == [(3, "failed", 1)]
    assert (4, 1) in bench.waiting()


def one_busy_one_idle(bench, runs=1):
    """Two processes: the first runs one with many waiting behind it, the second has nothing."""
    one, other = bench[0], bench[1]
    open_window(bench, one)
    bench.dispatcher.feed(last=False)
    for feed in list(other.in_flight):
        bench.hear(other, result(other, feed))
    bench.dispatcher.take_finished()
    bench.dispatcher._queue.take(1000)
    one.runs(runs)
    return one, other


def test_what_waits_behind_a_slow_one_is_given_to_an_idle_process(bench):
    bench = bench(processes=2, mini_batches=30)
    one, other = one_busy_one_idle(bench)
    before = bench.dispatcher.outstanding
    bench.dispatcher.feed(last=True)
    assert list(one.in_flight) == [1]
    assert all(one.page.revoked(feed) for feed in one.fed() if feed > 1)
    assert bench.dispatcher.outstanding == before
    bench.dispatcher.feed(last=True)
    assert other.in_flight


def test_a_revoked_one_that_was_run_all_the_same_does_not_count(bench):
    bench = bench(processes=2, mini_batches=30)
    one, _ = one_busy_one_idle(bench)
    bench.dispatcher.feed(last=True)
    before = bench.dispatcher.outstanding
    bench.hear(one, result(one, 5))
    assert bench.finished() == []
    assert bench.dispatcher.outstanding == before


def test_a_skipped_one_goes_back_free(bench):
    bench = bench(processes=2, mini_batches=30)
    one, _ = one_busy_one_idle(bench)
    bench.hear(one, result(one, 2, "skipped"))
    assert bench.finished() == []
    assert bench.waiting() == [(one.fed()[2], 1)]


def test_an_idle_process_that_ran_everything_meanwhile_gives_nothing_back(bench):
    bench = bench(processes=2, mini_batches=30)
    one, _ = one_busy_one_idle(bench)
    revoke = one.page.revoke

    def through_before_it_was_seen(end):
        one.page.write(page.IDLE)
        revoke(end)

    one.page.revoke = through_before_it_was_seen
    in_flight = list(one.in_flight)
    assert one.revoke() == []
    assert list(one.in_flight) == in_flight


def test_what_was_given_away_once_stays_revoked(bench):
    bench = bench(processes=2, mini_batches=30)
    one, _ = one_busy_one_idle(bench)
    given = set(one.in_flight) - {1}
    (taken_back,) = one.revoke()
    ordinals = range(taken_back.ordinal, taken_back.ordinal + taken_back.length)
    assert list(ordinals) == sorted(one.fed()[feed] for feed in given)
    one.feed([Portion(900, 3)])
    one.runs(2, page.LOAD)  # on its way through what was revoked; has not asked yet
    one.revoke()
    assert all(one.page.revoked(feed) for feed in given)


def test_a_process_that_is_in_a_slow_one_gets_no_more(bench):
    bench = bench(mini_batches=300)
    open_window(bench, bench[0])
    bench.dispatcher.feed(last=False)
    process = bench[0]
    for feed in list(process.in_flight)[:-1]:
        bench.hear(process, result(process, feed))
    process.runs(max(process.in_flight), seconds_ago=0.5)
    bench.dispatcher.feed(last=False)
    assert len(process.in_flight) == 1
    process.runs(max(process.in_flight))
    bench.dispatcher.feed(last=False)
    assert len(process.in_flight) > 1


def test_questions_are_answered(bench):
    bench = bench()
    bench[0].incoming.append(["ask", "model_path", {"name": "net"}])
    bench.dispatcher.receive(bench[0])
    assert bench[0].sent == [["answer", True, ["model_path", {"name": "net"}]]]


def test_a_fault_of_the_store_is_a_storage_error_and_charges_nobody(bench):
    bench = bench(run_max_try=1)
    bench.dispatcher.feed(last=False)
    bench[0].runs(0, page.WRITE)
    bench[0].incoming.append(["fault", "segments/0-1-0-0", "No space left on device"])
    with pytest.raises(StorageError, match=r"segments/0-1-0-0: No space left on device"):
        bench.dispatcher.receive(bench[0])
    assert bench.finished() == []


def test_a_broken_contract_and_another_protocol_end_the_node(bench):
    bench = bench()
    bench[0].incoming.append(["contract", "no run"])
    with pytest.raises(EntryScriptContractError, match="no run"):
        bench.dispatcher.receive(bench[0])
    bench[0].incoming.append(["hello", protocol.VERSION])
    bench.dispatcher.receive(bench[0])
    bench[0].incoming.append(["hello", protocol.VERSION + 1])
    with pytest.raises(RuntimeError, match="another protocol"):
        bench.dispatcher.receive(bench[0])
