# SPDX-License-Identifier: Apache-2.0
"""The part of Airflow's REST API that the demo and the tests use."""

from __future__ import annotations

import time
from typing import Any, Self
from urllib.parse import quote

import httpx

FINISHED_STATES = frozenset({"success", "failed"})

# The API server writes its audit log on its event loop. With SQLite it blocks there when a task's request has
# the lock and waits for that loop, until SQLite gives up after 5 s: 500, before anything was done. Other
# requests that do not get the lock are rolled back: 500, or 503 from a backfill.
_DATABASE_TRIES = 4


class AirflowApiError(RuntimeError):
    """Airflow refused a request."""

    def __init__(self, method: str, path: str, status: int, detail: str) -> None:
        super().__init__(f"Airflow answered {status} to {method} {path}: {detail}")
        self.status = status
        self.detail = detail


class AirflowClient:
    """Speak to one Airflow as one user.

    :param url: where the API server listens, such as ``http://127.0.0.1:8080``.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=30.0, trust_env=False)
        try:
            answer = self._http.post("/auth/token", json={"username": user, "password": password})
            self._http.headers["Authorization"] = f"Bearer {_checked(answer)['access_token']}"
        except BaseException:
            self._http.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(self, method: str, path: str, **query_or_body: Any) -> Any:
        """Send one request to ``/api/v2<path>`` and return the decoded answer.

        :param query_or_body: ``params`` or ``json``, as httpx takes them.
        :raises AirflowApiError: on any status from 400 up.
        """
        for _ in range(_DATABASE_TRIES - 1):
            try:
                return _checked(self._http.request(method, f"/api/v2{path}", **query_or_body))
            except AirflowApiError as error:
                if error.status not in (500, 503) or "Database" not in error.detail:
                    raise
        return _checked(self._http.request(method, f"/api/v2{path}", **query_or_body))

    def dag(self, dag_id: str) -> dict[str, Any]:
        """Return what Airflow lists about the DAG."""
        return dict(self.request("GET", f"/dags/{_part(dag_id)}"))

    def import_errors(self) -> list[dict[str, Any]]:
        """Return the import errors of all DAG files."""
        return list(self.request("GET", "/importErrors")["import_errors"])

    def unpause(self, dag_id: str) -> None:
        """Let runs of the DAG start."""
        self.request("PATCH", f"/dags/{_part(dag_id)}", json={"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> str:
        """Start a run and return its run id."""
        body: dict[str, Any] = {"logical_date": None, "conf": conf or {}}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return str(self.request("POST", f"/dags/{_part(dag_id)}/dagRuns", json=body)["dag_run_id"])

    def dag_run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return state, start and end of the run."""
        return dict(self.request("GET", _run(dag_id, run_id)))

    def unfinished_runs(self, dag_id: str) -> list[dict[str, Any]]:
        """Return the DAG's runs that are queued or running."""
        query = {"state": ["queued", "running"]}
        return list(self.request("GET", f"/dags/{_part(dag_id)}/dagRuns", params=query)["dag_runs"])

    def mark_dag_run(self, dag_id: str, run_id: str, state: str) -> None:
        """Set the run to ``failed``, ``success`` or ``queued``; its running tasks are ended."""
        self.request("PATCH", _run(dag_id, run_id), json={"state": state})

    def wait(self, dag_id: str, run_id: str, timeout_s: float = 300.0) -> dict[str, Any]:
        """Block until the run has ended, well or not, and return it.

        :raises TimeoutError: when it has not ended after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            run = self.dag_run(dag_id, run_id)
            if run["state"] in FINISHED_STATES:
                return run
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"run {run_id} of {dag_id} is still {run['state']} after {timeout_s:.0f} s"
                )
            time.sleep(0.5)

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of the run, mapped ones each by itself."""
        found: list[dict[str, Any]] = []
        while True:
            query = {"limit": 100, "offset": len(found)}
            page = self.request("GET", f"{_run(dag_id, run_id)}/taskInstances", params=query)
            found += page["task_instances"]
            if not page["task_instances"] or len(found) >= page["total_entries"]:
                return found

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return one XCom as a value.

        :raises AirflowApiError: with status 404 when there is none.
        """
        path = f"{_run(dag_id, run_id)}/taskInstances/{_part(task_id)}/xcomEntries/{_part(key)}"
        query = {"map_index": map_index, "deserialize": False, "stringify": False}
        return self.request("GET", path, params=query)["value"]

    def task_state(self, dag_id: str, run_id: str, task_id: str, map_index: int, key: str) -> Any:
        """Return one value of the task state store, or None where there is none yet."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{_part(task_id)}/state-store/{_part(key)}"
        try:
            return self.request("GET", path, params={"map_index": map_index})["value"]
        except AirflowApiError as error:
            if error.status == 404:
                return None
            raise

    def logs(
        self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, try_number: int = 1
    ) -> list[dict[str, Any]]:
        """Return the log of one try as Airflow's structured messages (``event``, ``level``, …)."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{_part(task_id)}/logs/{try_number}"
        query = {"map_index": map_index, "full_content": True}
        content = self.request("GET", path, params=query)["content"]
        return [line if isinstance(line, dict) else {"event": line} for line in content]

    def clear(
        self, dag_id: str, run_id: str, tasks: list[str | tuple[str, int]], *, downstream: bool = False
    ) -> list[dict[str, Any]]:
        """Clear tasks (or single map indices) of the run, so that they run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": tasks,
            "only_failed": False,
            "include_downstream": downstream,
        }
        answer = self.request("POST", f"/dags/{_part(dag_id)}/clearTaskInstances", json=body)
        return list(answer["task_instances"])


def _checked(answer: httpx.Response) -> Any:
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:500]
    request = answer.request
    raise AirflowApiError(request.method, request.url.path, answer.status_code, str(detail))


def _part(name: str) -> str:
    return quote(name, safe="")


def _run(dag_id: str, run_id: str) -> str:
    return f"/dags/{_part(dag_id)}/dagRuns/{_part(run_id)}"
