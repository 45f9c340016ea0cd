# SPDX-License-Identifier: Apache-2.0
"""Airflow's Trigger form in a real browser: what people see, and what reaches the run."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness import Workspace
    from playwright.sync_api import Locator, Page

CHROMIUM = shutil.which("chromium")
DAG_ID = "paused_parameters"
SECTION = "Parallel run: predict"
FIELDS = {
    "files": 'A file, a folder or a glob; several as a JSON list: ["/data/a", "/data/b"] '
    "(inputs[0] of predict).",
    "label": "An argument of the entry script (--label of predict).",
    "threshold": "An argument of the entry script (--threshold of predict).",
    "top": "An argument of the entry script (--top of predict).",
    "strict": "An argument of the entry script (--strict of predict).",
    "batch_size": "Files in one mini-batch; of a table bytes or rows, such as 64KB or 5000rows "
    "(mini_batch_size of predict).",
    "nodes": "Nodes, each a task of its own (node_count of predict).",
    "processes": "Worker processes on each node; empty: one for each CPU "
    "(process_count_per_node of predict).",
    "seconds": "Seconds that one run() may take (run_invocation_timeout of predict).",
    "tries": "Tries for each mini-batch, the first included (run_max_try of predict).",
    "tolerated": "Items that may fail; -1 for any number (error_threshold of predict).",
    "failed_batches": "Mini-batches that may fail; -1 for any number; empty: no such limit "
    "(allowed_failed_count of predict).",
    "failed_percent": "Percentage of the mini-batches that may fail (allowed_failed_percent of predict).",
    "level": "What of the entry script's output the task log shows (logging_level of predict).",
}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no chromium; make test installs it as root"
)


@pytest.fixture(scope="module")
def page(workspace: Workspace) -> Iterator[Page]:
    """Log in."""
    from playwright.sync_api import sync_playwright

    airflow = workspace.airflow
    airflow.wait_for_dags([DAG_ID, "required_parameters"])
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 1300, "height": 2300})
        page.set_default_timeout(60_000)
        page.goto(airflow.url)
        page.fill('input[name="username"]', airflow.user)
        page.fill('input[name="password"]', airflow.password)
        page.keyboard.press("Enter")
        page.get_by_text("Health").first.wait_for()
        yield page
        browser.close()


def test_a_section_has_the_fields_with_their_help(page: Page, tmp_path: Path) -> None:
    dialog = _open(page, f"/dags/{DAG_ID}")
    page.screenshot(path=tmp_path / "form.png")
    rows = dialog.locator('[role="group"]:has(label):has([id$="helper-text"])').all()
    found = {_text(row, "label"): _text(row, '[id$="helper-text"]') for row in rows}
    assert list(found.items())[: len(FIELDS)] == list(FIELDS.items())

    dialog.get_by_role("combobox").click()
    assert dialog.get_by_role("option").all_inner_texts() == ["DEBUG", "INFO", "WARNING"]


def test_what_is_typed_reaches_the_conf_with_its_type(page: Page, workspace: Workspace) -> None:
    before = _runs(workspace)
    dialog = _open(page, f"/dags/{DAG_ID}")
    files = [str(workspace.root / "input" / name) for name in "12"]
    dialog.locator('[name="element_files"]').fill(json.dumps(files))
    _type(dialog, "batch_size", "64MB")
    _type(dialog, "nodes", "5")
    _type(dialog, "threshold", "0.25")
    _type(dialog, "label", "7")
    dialog.get_by_role("combobox").click()
    dialog.get_by_role("option", name="DEBUG").click()
    _submit(dialog)

    run_id = eventually(lambda: _runs(workspace) - before, "a run from the form").pop()
    conf = workspace.client.dag_run(DAG_ID, run_id)["conf"]
    expected: dict[str, Any] = {
        "files": files,
        "label": "7",
        "threshold": 0.25,
        "top": 3,
        "strict": False,
        "batch_size": "64MB",
        "nodes": 5,
        "processes": None,
        "seconds": 60,
        "tries": 3,
        "tolerated": 0,
        "failed_batches": None,
        "failed_percent": 12.5,
        "level": "DEBUG",
    }
    # As JSON: 5 == 5.0 in Python.
    assert json.dumps(conf, sort_keys=True) == json.dumps(expected, sort_keys=True)


def test_a_wrong_value_is_shown_and_can_be_put_right(page: Page, workspace: Workspace) -> None:
    before = _runs(workspace)
    dialog = _open(page, f"/dags/{DAG_ID}")
    _type(dialog, "batch_size", "64TB")
    _submit(dialog)
    page.get_by_text("Invalid input for param batch_size").first.wait_for()
    assert _runs(workspace) == before

    _type(dialog, "batch_size", "5")
    _submit(dialog)
    run_id = eventually(lambda: _runs(workspace) - before, "a run from the form").pop()
    conf = workspace.client.dag_run(DAG_ID, run_id)["conf"]
    assert conf["batch_size"] == 5
    assert conf["files"] == str(workspace.root / "input")


def test_without_a_default_the_form_asks_for_the_value(page: Page) -> None:
    dialog = _open(page, "/dags/required_parameters")
    button = dialog.get_by_test_id("trigger-dag-submit")
    assert button.is_disabled()
    assert dialog.get_by_text("This field is required").count() == 6
    for name, text in {
        "files": "/data",
        "label": "x",
        "threshold": "1",
        "batch_size": "5",
        "nodes": "1",
    }.items():
        _type(dialog, name, text)
    assert button.is_disabled()
    dialog.get_by_role("combobox").click()
    dialog.get_by_role("option", name="INFO").click()
    assert button.is_enabled()


def _open(page: Page, path: str) -> Locator:
    page.goto(page.url.partition("/dags")[0].rstrip("/") + path)
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name=SECTION).click()
    dialog.locator('[name="element_files"]').wait_for()
    return dialog


def _type(dialog: Locator, name: str, text: str) -> None:
    field = dialog.locator(f'[name="element_{name}"]')
    field.fill("")
    field.press_sequentially(text)


def _submit(dialog: Locator) -> None:
    # The run stays queued: this is about the form.
    unpause = dialog.get_by_text(f"Unpause {DAG_ID} on trigger")
    if dialog.get_by_role("checkbox", name=f"Unpause {DAG_ID}").is_checked():
        unpause.click()
    # By key: the notification about a wrong value may lie over the button.
    dialog.get_by_test_id("trigger-dag-submit").press("Enter")


def _runs(workspace: Workspace) -> set[str]:
    query = {"limit": 100, "order_by": "-run_after"}
    found = workspace.client.request("GET", f"/dags/{DAG_ID}/dagRuns", params=query)["dag_runs"]
    return {run["dag_run_id"] for run in found}


def _text(row: Locator, selector: str) -> str:
    return row.locator(selector).first.inner_text().replace("*", "").strip()
