# SPDX-License-Identifier: Apache-2.0
"""Somebody who sees every name that appears and every run() that begins, and objects to what must not be."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import protocol_checker as checker
from protocol_parts import ITEMS_EACH, RUN
from protocol_world import OUTPUT

from airflow_parallelrun.engine.names import ABORT, Attempt
from airflow_parallelrun.engine.node import NodeResult

if TYPE_CHECKING:
    from protocol_world import Actor, Run, World

ROWS = f"{OUTPUT}/parallel_run_step.txt"
RESULT = f"{OUTPUT}/job_result.json"


class Witness:
    """What has been seen so far."""

    def __init__(self) -> None:
        self.world: World = None  # type: ignore[assignment]
        self.seals: dict[int, bytes] = {}
        self.truths: dict[int, checker.Truth] = {}
        self.verdicts: dict[int, tuple[Any, ...]] = {}
        self.round_of: dict[Attempt, int] = {}
        self._seen_at_start: dict[Attempt, list[checker.Entry]] = {}
        self._too_late: set[Attempt] = set()
        self._at_work: set[Attempt] = set()
        self._nodes: defaultdict[tuple[int, int], set[int]] = defaultdict(set)

    # What the world tells.

    def named(self, path: str) -> None:
        """Something got a name."""
        content = self.world.disk.content(path)
        *_, folder, name = path.split("/")
        if folder == "attempts":
            self._starts(Attempt.parse(name), json.loads(content)["round"])
        elif name == ABORT:
            self._aborts(int(folder))
        elif "/control/" in path:
            attempt = Attempt.parse(name)
            assert attempt not in self._too_late, f"{name} is in a round that was sealed before"
            self._at_work.add(attempt)
        elif name == "sealed.json":
            assert int(folder) not in self.seals, f"the seal of round {folder} is written again"
            self.seals[int(folder)] = content
            self.truths[int(folder)] = self._truth(content)
        elif path == ROWS:
            assert content in [each.output for each in self.truths.values()], "these are the rows of no round"
        elif path == RESULT:
            self._judges(json.loads(content))

    def honoured(self, attempt: Attempt, chunk: int) -> None:
        """A node takes on a chunk that it has claimed."""
        nodes = self._nodes[self.round_of[attempt], chunk]
        nodes.add(attempt.node)
        assert len(nodes) == 1, f"chunk {chunk} is with nodes {nodes} in one round"

    def run(self, run: Run) -> None:
        """Run() is called for a mini-batch: one that was not journalled when this attempt began."""
        round_ = self.round_of[run.attempt]
        done = [
            entry
            for entry in self._seen_at_start[run.attempt]
            if entry.ordinal == run.ordinal
            and (entry.round == round_ or (entry.round < round_ and entry.status != "failed"))
        ]
        assert not done, f"{run.attempt} runs {run.ordinal} in round {round_}, which was done: {done}"
        if round_:
            before = self.truths[round_ - 1].statuses[run.ordinal]
            assert before in (None, "failed"), f"{run.ordinal} had succeeded when round {round_} began"

    def ended(self, actor: Actor) -> None:
        """A node that finished has taken on all that it claimed; one that was aborted was so in its round."""
        if not isinstance(actor.end, NodeResult) or not actor.attempt:
            return
        round_ = self.round_of[actor.attempt]
        if actor.end.outcome == "aborted":
            assert self.world.disk.find(f"{RUN}/control/{round_}/{ABORT}"), (
                f"{actor.name} had no reason to stop"
            )
            return
        for name, file in self.world.disk.files(f"{RUN}/claims/{round_}").items():
            if json.loads(file.content)["attempt"] == str(actor.attempt):
                assert self._nodes[round_, int(name)], f"{actor.name} has claimed chunk {name} and left it"

    # What is asked of it.

    def all_have_finished(self) -> bool:
        """Tell whether the last start of each node in the newest round has finished: then all is done."""
        newest = max(self.round_of.values(), default=0)
        last = {each.node: each for each, round_ in sorted(self.round_of.items()) if round_ == newest}
        ends = {actor.attempt: actor.end for actor in self.world.actors if actor.attempt}
        outcomes = {getattr(ends.get(attempt), "outcome", "") for attempt in last.values()}
        return outcomes == {"finished"}

    def left_alone(self, round_: int) -> list[int]:
        """Return the mini-batches that have neither succeeded before a round nor been tried in it."""
        done = {
            entry.ordinal
            for entry in checker.entries(self.world.disk, RUN)
            if entry.round == round_ or (entry.round < round_ and entry.status != "failed")
        }
        return [ordinal for ordinal in range(self.world.plan.mini_batches) if ordinal not in done]

    def check_result(self) -> None:
        """The presence of the result says that the rest is there."""
        if not self.world.disk.find(RESULT):
            return
        result = json.loads(self.world.disk.content(RESULT))
        if result["output_file"]:
            assert self.world.disk.find(ROWS), "there is a result without its rows"
            assert self.world.disk.content(ROWS) == self.truths[result["round"]].output

    def check_last_result(self) -> None:
        """The verdict that is published is the last one."""
        result = json.loads(self.world.disk.content(RESULT))
        assert result["round"] == max(self.verdicts), "an older verdict has replaced a newer one"
        assert bool(result["output_file"]) == bool(self.world.disk.find(ROWS))
        self.check_result()

    def check_seals(self) -> None:
        """No seal has changed, and none has gone."""
        assert checker.seals(self.world.disk, RUN) == self.seals

    def check_counts(self) -> None:
        """What nodes show as done would survive a power cut, and so would the rows of every line."""
        assert not (bare := checker.without_rows(self.world.disk, RUN)), f"flushed without their rows: {bare}"
        flushed = Counter(entry.rank[:2] for entry in checker.entries(self.world.disk, RUN, flushed=True))
        for round_ in range(len(self.seals) + 1):
            for name in self.world.disk.files(f"{RUN}/control/{round_}"):
                if name != ABORT:
                    node, k, *_, done = map(int, name.split("-"))
                    assert done <= flushed[k, node], f"{name} counts what is not durable"

    def after_power_cut(self) -> None:
        """Names that had not been flushed may be gone, but no seal on which anything was built."""
        left = checker.seals(self.world.disk, RUN)
        published = self.world.disk.find(RESULT)
        verdict_on = json.loads(self.world.disk.content(RESULT))["round"] if published else -1
        attempts = checker.rounds_of_attempts(self.world.disk, RUN)
        for round_, content in list(self.seals.items()):
            if round_ in left:
                assert left[round_] == content
                assert self._truth(content) == self.truths[round_], f"round {round_} has lost what was sealed"
                continue
            later = [attempt for attempt, of in attempts.items() if of > round_]
            assert not later, f"{later} are in rounds after {round_}, whose seal is gone"
            assert verdict_on < round_, f"there is a verdict on round {round_}, whose seal is gone"
            for gone in (self.seals, self.truths, self.verdicts):
                gone.pop(round_, None)
        for content in self.seals.values():
            gone = [name for name in checker.lengths_of(content) if not self.world.disk.find(f"{RUN}/{name}")]
            assert not gone, f"{gone} were sealed"
        gone_starts = [attempt for attempt in self._at_work if str(attempt) not in attempts]
        assert not gone_starts, f"{gone_starts} were at work"
        for (round_, chunk), nodes in self._nodes.items():
            claim = self.world.disk.find(f"{RUN}/claims/{round_}/{chunk}")
            assert claim or not nodes, f"the claim of chunk {chunk} in round {round_} is gone"
        self.round_of = {attempt: of for attempt, of in self.round_of.items() if str(attempt) in attempts}

    def _truth(self, seal: bytes) -> checker.Truth:
        found = checker.entries(self.world.disk, RUN, checker.lengths_of(seal))
        return checker.truth(found, self.world.plan.mini_batches)

    def _starts(self, attempt: Attempt, round_: int) -> None:
        self.world.current.actor.attempt = attempt
        self.round_of[attempt] = round_
        self._seen_at_start[attempt] = checker.entries(self.world.disk, RUN)
        if round_ in self.seals:
            self._too_late.add(attempt)

    def _aborts(self, round_: int) -> None:
        """A node proposes to stop: so much must have failed in this round, and no mini-batch counts twice."""
        failed = {
            entry.ordinal: ITEMS_EACH if entry.status == "failed" else 1
            for entry in checker.entries(self.world.disk, RUN)
            if entry.round == round_ and entry.status != "ok"
        }
        limit = self.world.plan.config.error_threshold
        assert isinstance(limit, int)
        assert sum(failed.values()) > limit >= 0, f"round {round_} is stopped, but only {failed} failed"

    def _judges(self, result: dict[str, Any]) -> None:
        """A verdict is published: always the same for a round, and what its seal says."""
        round_, counts = result["round"], result["counts"]
        told = self.truths[round_]
        assert {name: counts[name] for name in told.counts} == told.counts
        items = counts["items_succeeded"] + counts["items_failed"] + counts["items_unprocessed"]
        assert items == counts["items"] == ITEMS_EACH * self.world.plan.mini_batches
        verdict = (result["verdict"], counts, told.output)
        assert self.verdicts.setdefault(round_, verdict) == verdict, f"two verdicts on round {round_}"
