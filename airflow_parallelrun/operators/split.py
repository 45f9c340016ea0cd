# SPDX-License-Identifier: Apache-2.0
"""The first task: resolves the parameters, lists the input and writes the plan."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from airflow_parallelrun.config import ParallelRunConfig
from airflow_parallelrun.datasets import DatasetInput
from airflow_parallelrun.exceptions import ConfigurationError, InvalidValueError, NothingNewError
from airflow_parallelrun.hooks.connections import provided
from airflow_parallelrun.hooks.filesystems import connected
from airflow_parallelrun.hooks.settings import read_settings
from airflow_parallelrun.operators.checks import check_arguments
from airflow_parallelrun.operators.clearing import calls, ended_before, sibling
from airflow_parallelrun.operators.conf import refuse_near_misses
from airflow_parallelrun.operators.lineage import planned_lineage
from airflow_parallelrun.operators.links import PLAN_KEY, EarlierRunLink, JobResultLink
from airflow_parallelrun.operators.outcome import airflow_outcome, engine_logging
from airflow_parallelrun.operators.redriving import REDRIVE_OF, asked_for, redrive_earlier
from airflow_parallelrun.operators.reusing import FORCE, is_forced

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from airflow.sdk import BaseOperatorLink, Context

    from airflow_parallelrun.engine.plan import Plan
    from airflow_parallelrun.engine.split import RunRequest
    from airflow_parallelrun.operators.lineage import Lineage


class SplitOperator(BaseOperator):
    """Make the plan of a job; use :class:`ParallelRunOperator`.

    A run with ``{"redrive_of": "<earlier run>"}`` in its conf goes on with that run's plan instead. Where an
    identical success may stand for this run, there is no plan, and no node.

    Pushes the plan's pointers under the key ``plan`` and returns one small dict for each node. All that a
    pipeline parameter or a template can change is resolved here and only here; the other tasks read the plan.

    :param config: ``ParallelRunConfig.to_dict()``, with references in place of pipeline parameters
    :param inputs: ``DatasetInput.to_dict()`` of each input, likewise
    :param side_inputs: the same of each side input
    :param output_folder: the output folder; None for one in the storage root
    :param arguments: the script's arguments, likewise
    :param origins: which pipeline parameter the value at a place ("mini_batch_size") comes from
    :param allow_reuse: whether an identical earlier success may stand for a run
    """

    template_fields: Sequence[str] = ("config", "inputs", "side_inputs", "output_folder", "arguments")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "config": "json",
        "inputs": "json",
        "side_inputs": "json",
    }
    operator_extra_links: Collection[BaseOperatorLink] = (JobResultLink(), EarlierRunLink())
    ui_color = "#e8eef4"

    def __init__(
        self,
        *,
        config: dict[str, Any],
        inputs: list[dict[str, Any]],
        output_folder: Any,
        arguments: list[Any],
        origins: Mapping[str, str],
        side_inputs: Sequence[dict[str, Any]] = (),
        allow_reuse: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Apart: what is in a template field shows in the UI, and these may be secrets.
        self.environment_variables = config["environment_variables"]
        self.config = {name: value for name, value in config.items() if name != "environment_variables"}
        self.inputs = inputs
        self.side_inputs = list(side_inputs)
        self.output_folder = output_folder
        self.output_is_given = output_folder is not None
        self.arguments = arguments
        self.origins = dict(origins)
        self.allow_reuse = allow_reuse
        self.results: dict[str, str | None] = {}
        self._plan: Plan | None = None

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Write the plan; or, when the run's conf names an earlier run, have that one redriven.

        :return: for each node ``{"node": index, "run_dir": path}``, which the run task is mapped over
        :raises AirflowSkipException: when only new files are wanted, and there are none
        """
        from airflow_parallelrun.engine import urls

        ti, conf = context["ti"], context["dag_run"].conf or {}
        with airflow_outcome(), self._naming_the_parameter():
            self._check_conf(conf)
            earlier = asked_for(conf, ti.run_id)
            request = self._request(context)
            self.log.info("Effective configuration: %s", _shown(request.config))
            databases = [each.connection for each in request.inputs if each.connection]
            stores = connected(urls.of_request(request))
            with engine_logging(request.config.logging_level), provided(databases), stores:
                pointers = self._redrive(earlier, request, ti) if earlier else self._split(request)
        ti.xcom_push(key=PLAN_KEY, value=pointers)
        run_id = sibling(self.task_id, "run")
        if stale := ended_before([run_id, sibling(self.task_id, "reduce")], context):
            self.log.warning(
                "%s: not cleared; what they did was for what this task did before, and nothing runs this. "
                "Clear %s with its downstream tasks.\n%s",
                " and ".join(stale),
                run_id,
                calls(run_id, context),
            )
        self.results[JobResultLink.name] = None
        self.results[EarlierRunLink.name] = pointers["reused_from"]
        return [{"node": index, "run_dir": pointers["run_dir"]} for index in range(pointers["nodes"])]

    def get_openlineage_facets_on_start(self) -> Lineage:
        """Return the inputs."""
        folder = str(Path(self.dag.fileloc).parent)
        return planned_lineage([DatasetInput.from_dict(each).resolve(folder) for each in self.inputs])

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Lineage:
        """Return the inputs and how much there is to do."""
        if self._plan is None:
            return self.get_openlineage_facets_on_start()
        return planned_lineage([DatasetInput.from_dict(each) for each in self._plan.inputs], self._plan)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Lineage:
        """Return the inputs."""
        return self.get_openlineage_facets_on_start()

    def _split(self, request: RunRequest) -> dict[str, Any]:
        from airflow_parallelrun.engine.reuse import Reused, split_or_reuse

        try:
            plan = split_or_reuse(request, self.log.info)
        except NothingNewError as nothing:
            raise AirflowSkipException(str(nothing)) from nothing
        if isinstance(plan, Reused):
            self.log.info(
                "Nothing is run: run %s has come to the same, and nothing that counts has changed since. "
                "Its result: %s",
                plan.run,
                plan.result_file,
            )
            found = {name: plan.result[name] for name in ("run_dir", "plan_id")}
            return {**found, "nodes": 0, "reused_from": plan.run, "result": plan.result_file}
        self._plan = plan
        self.log.info(
            "Planned %d mini-batches (%s) for %d nodes in %s",
            plan.mini_batches,
            "rows are counted when they are loaded" if plan.items is None else f"{plan.items} items",
            plan.node_count,
            plan.run_dir,
        )
        return _pointers(plan, plan.node_count)

    def _redrive(self, earlier: str, request: RunRequest, ti: Any) -> dict[str, Any]:
        asked = redrive_earlier(earlier, request, self.task_id, ti)
        plan = self._plan = asked.plan
        nodes = plan.node_count if asked.mini_batches else 0
        self.log.info(
            "Redrive of run %s: %d of its %d mini-batches (%d items) are run again, on %d nodes. "
            "Input, mini-batches, thresholds and output are that run's: %s",
            earlier,
            asked.mini_batches,
            plan.mini_batches,
            asked.items,
            nodes,
            plan.run_dir,
        )
        wanted, kept = request.config.to_dict(), plan.config.to_dict()
        if kept["model"] and str(kept["model"]).partition(":")[0] == wanted["model"]:
            wanted["model"] = kept["model"]  # no version was asked for
        if nodes and (other := sorted(name for name in wanted if wanted[name] != kept[name])):
            self.log.warning("These stay as they were in run %s: %s", earlier, _listed(other))
        return _pointers(plan, nodes, earlier)

    def _check_conf(self, conf: Mapping[str, Any]) -> None:
        """Refuse a slip in the name of any step's parameter, before the first step has done its work."""
        steps = [task for task in self.dag.tasks if isinstance(task, SplitOperator)]
        origins = [origin for step in steps for origin in step.origins.items()]
        own = (REDRIVE_OF, FORCE)
        known = {*self.dag.params, *own}
        foreign = refuse_near_misses(conf, known, [*origins, *((name, name) for name in own)])
        if foreign:
            self.log.info("The run's conf has keys that no parameter of the DAG has: %s", _listed(foreign))

    def _request(self, context: Context) -> RunRequest:
        """Build the engine's request from the resolved values, all of them checked again."""
        from airflow_parallelrun.engine.split import RunRequest
        from airflow_parallelrun.engine.steps import StepRun

        settings = read_settings()
        variables = self.render_template(self.environment_variables, context)
        config = ParallelRunConfig.from_dict({**self.config, "environment_variables": variables})
        arguments = check_arguments(self.arguments)
        if config.node_count > settings.max_nodes:
            rule = f"at most {settings.max_nodes}, the deployment's [core] max_map_length"
            raise InvalidValueError("node_count", config.node_count, rule)
        if self.output_is_given and not isinstance(self.output_folder, str):
            raise InvalidValueError("output", self.output_folder, "the path of a folder")
        ti, step = context["ti"], self.task_id.removesuffix(".split")
        return RunRequest(
            config=config,
            inputs=self._datasets(self.inputs, "inputs"),
            output=self.output_folder,
            arguments=tuple(item if isinstance(item, dict) else str(item) for item in arguments),
            side_inputs=self._datasets(self.side_inputs, "side_inputs"),
            owner=f"{ti.dag_id}/{ti.run_id}/{step}",
            base_directory=str(Path(context["dag"].fileloc).parent),
            models_root=settings.models_root,
            storage_root=settings.storage_root,
            step_run=StepRun(ti.dag_id, ti.run_id, step),
            allow_reuse=self.allow_reuse,
            force=is_forced(context["dag_run"].conf or {}),
        )

    def _datasets(self, documents: Sequence[dict[str, Any]], setting: str) -> tuple[DatasetInput, ...]:
        found = []
        for index, document in enumerate(documents):
            with self._naming_the_parameter(f"{setting}[{index}]"):
                found.append(DatasetInput.from_dict(document))
        return tuple(found)

    @contextmanager
    def _naming_the_parameter(self, place: str | None = None) -> Iterator[None]:
        """Say which pipeline parameter a refused value comes from; the Trigger form shows only those."""
        try:
            yield
        except ConfigurationError as error:
            origin = self.origins.get(place or str(getattr(error, "name", "")))
            if origin is None:
                raise
            raise ConfigurationError(
                f"the pipeline parameter {origin!r} has a wrong value: {error}"
            ) from error


def _pointers(plan: Plan, nodes: int, earlier: str | None = None) -> dict[str, Any]:
    return {"run_dir": plan.run_dir, "plan_id": plan.plan_id, "nodes": nodes, "reused_from": earlier}


def _shown(config: ParallelRunConfig) -> dict[str, Any]:
    """Leave the variables' values out: they may be secrets."""
    return {**config.to_dict(), "environment_variables": sorted(config.environment_variables)}


def _listed(names: list[str], limit: int = 10) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f", … and {more} more" if more > 0 else "")
