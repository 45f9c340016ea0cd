# SPDX-License-Identifier: Apache-2.0
"""Buttons on the pages of the tasks, which lead to what the job came to.

Airflow asks for a link when the task has ended, well or not, and keeps the answer; an empty one is no button.
What a browser can open is linked as it is. A path cannot be: the UI shows no link but http(s), a browser
follows no ``file://`` from a web page, and the API server may not see the storage. Its button leads to the
XCom of reduce that has the path, to be copied, and a short summary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

import attrs
from airflow.sdk import BaseOperatorLink, conf

from airflow_parallelrun.operators.clearing import sibling

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

PLAN_KEY = "plan"
OUTPUT_KEY = "output"
ERROR_REPORT_KEY = "error_report"
RESULT_KEY = "return_value"


@attrs.define
class _Link(BaseOperatorLink):
    """A link that is there when the task has its name in ``results``, with the path or None."""

    shown_key: ClassVar[str]

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        results: dict[str, str | None] = getattr(operator, "results", {})
        if self.name not in results:
            return ""
        path = results[self.name] or ""
        return path if path.startswith(("https://", "http://")) else _page(ti_key, self.shown_key)


@attrs.define
class OutputLink(_Link):
    """Where the result is: the ``append_row`` file, else the output folder."""

    name = "Output"
    xcom_key = "link_output"
    shown_key = OUTPUT_KEY


@attrs.define
class ErrorReportLink(_Link):
    """What failed: ``failed_items.jsonl``."""

    name = "Error report"
    xcom_key = "link_error_report"
    shown_key = ERROR_REPORT_KEY


@attrs.define
class JobResultLink(_Link):
    """The account of the job: ``job_result.json``."""

    name = "Job result"
    xcom_key = "link_job_result"
    shown_key = RESULT_KEY


@attrs.define
class EarlierRunLink(BaseOperatorLink):
    """The run whose output this one takes over, or that it redrives; its id is in ``results``."""

    name = "Earlier run"
    xcom_key = "link_earlier_run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        results: dict[str, str | None] = getattr(operator, "results", {})
        run_id = results.get(self.name)
        return _address(ti_key.dag_id, run_id) if run_id else ""


def _page(ti: TaskInstanceKey, key: str) -> str:
    """Return the page that shows an XCom of reduce, of the same step and run."""
    task = quote(sibling(ti.task_id, "reduce"), safe="")
    return f"{_address(ti.dag_id, ti.run_id)}/tasks/{task}/xcom?key_pattern={key}"


def _address(dag_id: str, run_id: str) -> str:
    """Return the page of a run.

    Without ``[api] base_url`` it is relative, which the UI resolves against the address that it is at.
    """
    page = f"dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"
    base = str(conf.get("api", "base_url", fallback=None) or "")
    return f"{base.rstrip('/')}/{page}" if base else page
