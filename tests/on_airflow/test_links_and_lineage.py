# SPDX-License-Identifier: Apache-2.0
"""What people and other systems see of a job: names, log lines, links, asset events, OpenLineage's events."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from harness import FILES, DagRun, Workspace, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

CHROMIUM = shutil.which("chromium")
SPLIT, REDUCE = "night.predict.split", "night.predict.reduce"
NODES = ("night.predict.run[0]", "night.predict.run[1]")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Start an Airflow that tells OpenLineage what runs; each task pays for that."""
    root = tmp_path_factory.mktemp("lineage")
    transport = {"type": "file", "log_file_path": str(root / "events.jsonl"), "append": True}
    made = Workspace(root, {"AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)})
    try:
        made.airflow.start()
        yield made
    finally:
        made.airflow.stop()


@pytest.fixture(scope="module")
def early_names(runs: dict[str, DagRun]) -> set[str]:
    """Return the names of the nodes of the run ``clean`` while they work, and let it go on."""
    run = runs["clean"]

    def names() -> set[str]:
        instances = run.instances()
        return {str(instances[node]["rendered_map_index"]) for node in NODES if node in instances} - {"None"}

    try:
        run.is_called_with("0")
        return set(eventually(lambda: names() if len(names()) == 2 else set(), "both nodes have a name"))
    finally:
        run.untell("hold")


@pytest.fixture(scope="module")
def runs(workspace: Workspace) -> dict[str, DagRun]:
    """Trigger everything at once, so that the tests share the waiting."""
    return {
        "clean": workspace.run("links", None, "hold"),
        "troubled": workspace.run("links", None, "fail-3"),
        "failed": workspace.run("links", None, "fail"),
        "broken": workspace.run("links", None, "fail-init"),
    }


@pytest.fixture
def ended(runs: dict[str, DagRun], early_names: set[str]) -> dict[str, DagRun]:
    """Wait for the ends."""
    for name, state in zip(runs, ("success", "success", "failed", "failed"), strict=True):
        runs[name].ends_as(state)
    return runs


def _names(run: DagRun) -> list[str]:
    instances = run.instances()
    return [instances[node]["rendered_map_index"] for node in NODES]


def test_a_node_is_named_while_it_works(early_names: set[str]) -> None:
    assert early_names == {"node 0", "node 1"}


def test_a_node_is_named_by_what_it_did(ended: dict[str, DagRun]) -> None:
    both = " / ".join(_names(ended["clean"]))
    assert re.fullmatch(r"node 0 · \d mini-batch(es)? / node 1 · \d mini-batch(es)?", both), both
    assert sum(int(number) for number in re.findall(r"· (\d)", both)) == FILES
    assert sum(name.endswith(" · 1 failed") for name in _names(ended["troubled"])) == 1
    for name in _names(ended["failed"]):
        assert re.search(r" · aborted: \d items failed, error_threshold is 1$", name), name
    for node, name in enumerate(_names(ended["broken"])):
        assert name.startswith(f"node {node} · 0 mini-batches · failed: "), name
        assert "FileNotFoundError: the weights are not there" in name


def _said(run: DagRun, label: str) -> list[str]:
    """Return the lines of this package in a task's log."""
    lines = [json.loads(line) for line in run.log(label).splitlines()]
    return [line["event"] for line in lines if "airflow_parallelrun." in str(line.get("logger"))]


def _matches(lines: list[str], patterns: list[str]) -> bool:
    return len(lines) == len(patterns) and all(map(re.match, patterns, lines))


def test_the_log_has_one_line_for_each_change_of_state(ended: dict[str, DagRun]) -> None:
    clean, troubled, failed = (ended[name] for name in ("clean", "troubled", "failed"))
    split = [
        "Effective configuration: ",
        "Nothing is reused: .* storage root",
        r"Planned 8 mini-batches \(8 items\) for 2 nodes in /",
    ]
    assert _matches(_said(clean, SPLIT), split), _said(clean, SPLIT)
    node = [
        "node 0-1 of 2, round 0: ",
        "process000 is ready",
        r"node 0-1 finished: \d mini-batches done$",
    ]
    assert _matches(_said(clean, NODES[0]), node), _said(clean, NODES[0])
    reduce = [
        "round 0 is sealed: of 8 mini-batches 8 succeeded",
        "published /.*/rows.txt$",
        "published /.*/job_result.json$",
        "The job succeeded; output: /.*/rows.txt$",
    ]
    assert _matches(_said(clean, REDUCE), reduce), _said(clean, REDUCE)
    said = _said(troubled, NODES[0]) + _said(troubled, NODES[1])
    failure = r"mini-batch \d, try 1 of 1, failed: UnreadableDigitError: no digit in 3 "
    assert sum(bool(re.match(failure, line)) for line in said) == 1
    assert any("\n1 mini-batches: UnreadableDigitError" in line for line in _said(troubled, REDUCE))
    for label in NODES:
        assert re.match(r"node \d-1 aborted: \d items failed", _said(failed, label)[-1])


def _links(run: DagRun, label: str) -> dict[str, str | None]:
    instance = run.instances()[label]
    path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances/{instance['task_id']}/links"
    answer = run.client.request("GET", path, params={"map_index": instance["map_index"]})
    return dict(answer["extra_links"])


def test_links_lead_to_what_there_is(ended: dict[str, DagRun], workspace: Workspace) -> None:
    def page(run: DagRun, key: str) -> str:
        tasks = f"{workspace.airflow.url}/dags/links/runs/{run.run_id}/tasks"
        return f"{tasks}/{REDUCE}/xcom?key_pattern={key}"

    for name, keys in {
        "clean": {"Output": "output", "Error report": None, "Job result": "return_value"},
        "troubled": {"Output": "output", "Error report": "error_report", "Job result": "return_value"},
        "failed": {"Output": None, "Error report": "error_report", "Job result": "return_value"},
        "broken": {"Output": None, "Error report": None, "Job result": "return_value"},
    }.items():
        run = ended[name]
        pages = {link: key and page(run, key) for link, key in keys.items()}
        assert _links(run, REDUCE) == {**pages, "Earlier run": None}
        assert _links(run, SPLIT) == {"Job result": pages["Job result"], "Earlier run": None}
        for node in NODES:
            failures = re.search(r" · \d failed", run.instances()[node]["rendered_map_index"])
            report = pages["Error report"] if failures else None
            assert _links(run, node) == {"Job result": pages["Job result"], "Error report": report}


def test_what_the_links_show_is_there_also_of_a_failed_job(ended: dict[str, DagRun]) -> None:
    assert ended["clean"].xcom(REDUCE, "output") == str(ended["clean"].output / "rows.txt")
    for name, failures in {"troubled": 1, "failed": None, "broken": 0}.items():
        run = ended[name]
        result = run.result()
        assert run.xcom(REDUCE) == result
        if failures is not None:
            assert result["counts"]["items_failed"] == failures
        if result["failed_items_file"]:
            report = run.xcom(REDUCE, "error_report")
            assert report.endswith(f"\nAll of them: {run.output / 'failed_items.jsonl'}")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; make test installs it as root")
def test_the_links_are_buttons_that_show_the_path(ended: dict[str, DagRun], workspace: Workspace) -> None:
    from playwright.sync_api import expect, sync_playwright

    airflow, run = workspace.airflow, ended["troubled"]
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        expect.set_options(timeout=60_000)
        page.goto(f"{airflow.url}/dags/links/runs/{run.run_id}/tasks/{REDUCE}/details")
        page.fill('input[name="username"]', airflow.user)
        page.fill('input[name="password"]', airflow.password)
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="Job result")).to_be_visible()
        page.get_by_role("link", name="Output").click()
        expect(page.get_by_text(str(run.output / "rows.txt"))).to_be_visible()
        page.go_back()
        page.get_by_role("link", name="Error report").click()
        expect(page.get_by_text("1 of 8 items failed")).to_be_visible()
        browser.close()


def test_an_asset_event_says_what_was_made(ended: dict[str, DagRun], workspace: Workspace) -> None:
    events = workspace.client.request("GET", "/assets/events", params={"limit": 100})["asset_events"]
    found = {event["source_run_id"]: event["extra"] for event in events}
    # A job that failed has made nothing.
    assert set(found) == {ended["clean"].run_id, ended["troubled"].run_id}
    run = ended["troubled"]
    result = run.result()
    assert found[run.run_id] == {
        "verdict": "succeeded with errors",
        "output": (run.output / "rows.txt").as_uri(),
        "mini_batches": FILES,
        "mini_batches_failed": 1,
        "items": FILES,
        "items_failed": 1,
        "rows": FILES - 1,
        "run_dir": result["run_dir"],
        "plan_id": result["plan_id"],
    }


def _event(run: DagRun, task_id: str, kind: str) -> dict[str, Any]:
    """Return the event of one kind that a task of this run has sent."""
    path = run.workspace.root / "events.jsonl"

    def found() -> dict[str, Any] | None:
        for line in path.read_text().splitlines():
            event: dict[str, Any] = json.loads(line)
            facets = event["run"]["facets"]
            of_run = facets.get("airflow", {}).get("dagRun", {}).get("run_id") == run.run_id
            if of_run and event["job"]["name"] == f"links.{task_id}" and event["eventType"] == kind:
                return event
        return None

    return eventually(found, f"{kind} event of {task_id}") or {}


def test_openlineage_hears_of_input_output_rows_and_failures(
    ended: dict[str, DagRun], workspace: Workspace
) -> None:
    run = ended["troubled"]
    (read,) = _event(run, SPLIT, "START")["inputs"]
    assert (read["namespace"], read["name"]) == ("file", str(workspace.root / "input"))
    planned = _event(run, SPLIT, "COMPLETE")
    assert planned["run"]["facets"]["parallelRun"]["miniBatches"] == FILES
    event = _event(run, REDUCE, "COMPLETE")
    (read,), (written,) = event["inputs"], event["outputs"]
    assert (read["namespace"], read["name"]) == ("file", str(workspace.root / "input"))
    assert read["inputFacets"]["inputStatistics"]["fileCount"] == FILES
    assert (written["namespace"], written["name"]) == ("file", str(run.output / "rows.txt"))
    statistics = written["outputFacets"]["outputStatistics"]
    size = (run.output / "rows.txt").stat().st_size
    assert (statistics["rowCount"], statistics["size"]) == (FILES - 1, size)
    facet = event["run"]["facets"]["parallelRun"]
    counts = {name: facet[name] for name in ("verdict", "items", "itemsFailed", "rows", "failed")}
    assert counts == {
        "verdict": "succeeded with errors",
        "items": FILES,
        "itemsFailed": 1,
        "rows": FILES - 1,
        "failed": 1,
    }


def test_openlineage_hears_of_no_output_of_a_failed_job(
    ended: dict[str, DagRun], workspace: Workspace
) -> None:
    event = _event(ended["failed"], REDUCE, "FAIL")
    assert [item["name"] for item in event["inputs"]] == [str(workspace.root / "input")]
    assert event["outputs"] == []
    facet = event["run"]["facets"]["parallelRun"]
    assert facet["verdict"] == "failed"
    assert facet["itemsFailed"] == ended["failed"].result()["counts"]["items_failed"]
