# SPDX-License-Identifier: Apache-2.0
"""What was told to be tolerated, and whether more than that has failed. The rules combine with *or*."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from airflow_parallelrun.config import ParallelRunConfig
    from airflow_parallelrun.engine.pool import Failure

IGNORE = -1

# As the original: no job goes on when so many processes have failed in init() for each that should run, once
# it is so old; one node alone gives up as session.py says.
JOB_INIT_FAILURES_PER_PROCESS = 2
JOB_INIT_AGE_S = 120.0


class Failures(NamedTuple):
    """What the thresholds are compared with.

    :param items: failed items
    :param mini_batches: mini-batches that failed or came back short, as the original counts
    """

    items: int
    mini_batches: int


def thresholds(config: ParallelRunConfig) -> dict[str, float | None]:
    """Return what is tolerated, by the names in the configuration."""
    names = ("error_threshold", "allowed_failed_count", "allowed_failed_percent")
    return {name: getattr(config, name) for name in names}


def breaches(config: ParallelRunConfig, failures: Failures) -> list[str]:
    """Return a sentence for each count that is over its limit; these never become good again.

    :param config: the thresholds
    :param failures: what failed so far
    """
    found = []
    if _over(failures.items, _limit(config.error_threshold)):
        found.append(f"{failures.items} items failed, error_threshold is {config.error_threshold}")
    if _over(failures.mini_batches, _limit(config.allowed_failed_count)):
        found.append(
            f"{failures.mini_batches} mini-batches failed, "
            f"allowed_failed_count is {config.allowed_failed_count}"
        )
    return found


def final_breaches(config: ParallelRunConfig, failures: Failures, mini_batches: int) -> list[str]:
    """Return every breach once all mini-batches are known; the percentage can be judged only then."""
    found = breaches(config, failures)
    limit = config.allowed_failed_percent
    if limit is not None and not isinstance(limit, int | float):
        raise TypeError(f"allowed_failed_percent is not resolved: {limit!r}")
    percent = 100 * failures.mini_batches / mini_batches
    if limit is not None and percent > limit:
        found.append(f"{percent:.1f} % of the mini-batches failed, allowed_failed_percent is {limit}")
    return found


def init_breaches(failures: int, processes: int, age_s: float, last: Failure | None) -> list[str]:
    """Return why no node can be expected to get anywhere, as the original judges it.

    :param failures: processes of all nodes that died in init(), or before they got anything done, in a row
    :param processes: how many should run, on all nodes
    :param age_s: for how long the node that asks has seen that
    :param last: of its own processes; None without one
    """
    if last is None or age_s < JOB_INIT_AGE_S or failures < JOB_INIT_FAILURES_PER_PROCESS * processes:
        return []
    return [
        f"{failures} processes on all nodes died in init() or before they got anything done, and this node "
        f"has none that works; the last one: {last.text}. Full log: {last.log}"
    ]


def _over(count: int, limit: int | None) -> bool:
    return limit is not None and limit != IGNORE and count > limit


def _limit(value: object) -> int | None:
    if value is not None and not isinstance(value, int):
        raise TypeError(f"a threshold is not resolved: {value!r}")
    return value
