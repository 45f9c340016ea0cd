# SPDX-License-Identifier: Apache-2.0
"""A job that stands still: there is work, no phase is over its limit, and nothing is finished any more."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from airflow_parallelrun.engine.deaths import last_stack
from airflow_parallelrun.engine.dispatcher import STACK_S
from airflow_parallelrun.worker import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.pool import Process

# What another node has finished is known here after a commit of its own and a look of each: the limit is
# judged later by so much, and never too early.
NEWS_S = 5.0

_SHOWN = 3
_DOING = {
    page.INIT: "in init()",
    page.LOAD: "loading mini-batch {}",
    page.RUN: "in run() of mini-batch {}",
    page.WRITE: "writing the rows of mini-batch {}",
    page.SHUTDOWN: "in shutdown()",
}


class StallWatch:
    """Notices that no mini-batch was finished for as long as ``progress_update_timeout`` allows.

    :param plan: the plan
    """

    def __init__(self, plan: Plan) -> None:
        self._limit_s = plan.config.progress_update_timeout
        self._news_s = NEWS_S if plan.node_count > 1 else 0.0
        self._finished = -1
        self._since = time.monotonic()

    def reasons(
        self, finished: int, processes: Sequence[Process], outstanding: int, staged: int = 0
    ) -> list[str]:
        """Return why the job should be aborted; nothing while it gets on, or nothing is to be done here.

        :param finished: mini-batches of the whole job, as far as it is known here
        :param processes: of this node; when it stands still, each of them is asked for its stack
        :param outstanding: mini-batches that this node has and did not finish
        :param staged: those of them whose files are still being copied
        """
        if self._limit_s is None:
            return []
        now = time.monotonic()
        if finished != self._finished or not outstanding:
            self._finished, self._since = finished, now
        if now - self._since < self._limit_s + self._news_s:
            return []
        return [
            f"no mini-batch was finished for {now - self._since:.0f} s, progress_update_timeout is "
            f"{self._limit_s}: {_what_they_do(processes)}"
            + (f"; {staged} wait for their files" if staged else "")
        ]


def _what_they_do(processes: Sequence[Process]) -> str:
    """Return in one line what each process is doing, the one that has been at it for longest first."""
    if not processes:
        return "no process is running"
    now = time.monotonic_ns()
    states = [(process.page.last(), process) for process in processes]
    states.sort(key=lambda pair: (pair[0].phase == page.IDLE, pair[0].start_ns))
    for process in processes:
        process.dump_stack()
    time.sleep(STACK_S)
    told = [_what_it_does(process, state, now) for state, process in states[:_SHOWN]]
    if len(states) > _SHOWN:
        told.append(f"{len(states) - _SHOWN} more")
    return f"{', '.join(told)}; their stacks are in {os.path.dirname(processes[0].files.stderr)}"


def _what_it_does(process: Process, state: page.PageState, now: int) -> str:
    if state.phase == page.IDLE:
        return f"{process.name} is idle"
    frame = last_stack(process.files.stderr, process.code).frame
    where = f" ({frame})" if frame else ""
    doing = _DOING[state.phase].format(state.ordinal)
    return f"{process.name} has been {doing} for {(now - state.start_ns) / 1e9:.0f} s{where}"
