# SPDX-License-Identifier: Apache-2.0
"""ParallelRunOperator: batch inference as one step of a DAG."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, TaskGroup, TriggerRule, XComArg

from airflow_parallelrun import driver_arguments, rules
from airflow_parallelrun.config import ParallelRunConfig
from airflow_parallelrun.engine import mini_batches
from airflow_parallelrun.engine.objects import check_scheme
from airflow_parallelrun.exceptions import InvalidValueError, NotSupportedError
from airflow_parallelrun.filesystems import is_remote
from airflow_parallelrun.operators.checks import (
    check_arguments,
    check_driver_arguments,
    check_inputs,
    check_name,
    check_side_inputs,
)
from airflow_parallelrun.operators.form import (
    DATASET_SCHEMA,
    FIELD_SCHEMAS,
    Place,
    add_field,
    argument_schema,
)
from airflow_parallelrun.operators.links import OUTPUT_KEY
from airflow_parallelrun.operators.reduce import ReduceOperator
from airflow_parallelrun.operators.retries import retry_arguments
from airflow_parallelrun.operators.routing import route
from airflow_parallelrun.operators.run import TITLE_TEMPLATE, NodeOperator
from airflow_parallelrun.operators.split import SplitOperator
from airflow_parallelrun.parameters import PipelineParameter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk.definitions.param import DagParam

    from airflow_parallelrun.datasets import DatasetInput

_DEFAULT_POOL = "default_pool"


class ParallelRunOperator(TaskGroup):
    """Run an entry script over a dataset, mini-batch by mini-batch, on several nodes and processes.

    A task group that is used like an operator: ``extract() >> predict >> notify(predict.output)``. Its tasks
    are ``split`` (makes the plan), ``run`` (mapped over nodes, each with its worker processes) and ``reduce``
    (judges and publishes; the only one that is red when too much failed, with the script's own exception).

    :param task_id: the step's name; 3 to 32 lower-case letters, digits and hyphens, unique in the DAG
    :param name: the same, under ParallelRunStep's name for it; give one of the two
    :param parallel_run_config: what to run and how
    :param inputs: the datasets to split, such as ``[files.as_mount()]`` or
        ``[table.as_named_input("rows")]``; each on its own, in list order; all files, or all tables
    :param output: the folder that gets the output file; templated. A folder belongs to one run of one step,
        so a DAG that runs more than once has ``{{ run_id }}`` in it. Left out, ``append_row`` has a folder
        of its own for each run, ``outputs/<dag>/<run>/<step>`` in ``[parallelrun] storage_root``
    :param side_inputs: files that every process has whole, each under a name:
        ``[labels.as_named_input("labels")]``. The script finds the path of a file, or of the folder that has
        the files, in the environment variable of that name, and in place of the same dataset in ``arguments``
    :param arguments: what the script finds in ``sys.argv``, keyword style: ``["--threshold", 0.5]``;
        templated. The step's own names (``--mini_batch_size``, ``--output``, …) are refused
    :param allow_reuse: take over the output of an earlier run of the step that must have come to the same,
        and run nothing; known only with ``[parallelrun] storage_root``. ``{"force": true}`` in the conf of a
        run overrides it
    :param base_operator_kwargs: arguments of Airflow's operators; each goes to the task that it concerns:

        ==========  ==================================================================================
        task        arguments
        ==========  ==================================================================================
        ``split``   ``trigger_rule``, ``depends_on_past``, ``ignore_first_depends_on_past``,
                    ``wait_for_downstream``, ``wait_for_past_depends_before_skipping``, ``inlets``,
                    ``on_execute_callback``
        ``run``     ``retries``, ``retry_delay``, ``retry_exponential_backoff``, ``max_retry_delay``,
                    ``retry_policy``, ``on_retry_callback``, ``pool``, ``pool_slots``, ``queue``,
                    ``executor``, ``executor_config``, ``resources``, ``priority_weight``,
                    ``weight_rule``, ``execution_timeout``, ``max_active_tis_per_dag``,
                    ``max_active_tis_per_dagrun``
        ``reduce``  ``outlets``, ``on_success_callback``, ``on_failure_callback``,
                    ``on_skipped_callback``, ``doc``, ``doc_md``, ``doc_json``, ``doc_rst``, ``doc_yaml``
        all three   ``owner``, ``email``, ``email_on_failure``, ``email_on_retry``, ``start_date``,
                    ``end_date``, ``run_as_user``
        the group   ``dag``, ``task_group``, ``default_args``, ``task_display_name``
        ==========  ==================================================================================

        ``default_args`` of the DAG reach all three tasks, as they do for any operator. Where neither says
        otherwise, ``run`` has ``retries=3``, ``retry_delay=timedelta(seconds=10)`` and a ``retry_policy``
        that retries a node which was lost or interrupted, and not an error that a retry cannot change.

    :raises ConfigurationError: for a value that can never work, when the DAG is parsed
    :raises TypeError: for an argument that nothing here takes

    *What it does not do*: expand over something else. Inside a mapped task group it is refused; the work is
    already mapped, over nodes.
    """

    def __init__(
        self,
        *,
        task_id: str | None = None,
        name: str | None = None,
        parallel_run_config: ParallelRunConfig,
        inputs: Sequence[DatasetInput],
        output: str | XComArg | None = None,
        side_inputs: Sequence[DatasetInput] | None = None,
        arguments: Sequence[object] | None = None,
        allow_reuse: bool = True,
        **base_operator_kwargs: Any,
    ) -> None:
        step, routed = check_name(task_id, name), route(base_operator_kwargs)
        super().__init__(group_id=step, **_group_arguments(routed["group"]))
        _refuse_mapped_group(self)
        if not isinstance(parallel_run_config, ParallelRunConfig):
            raise InvalidValueError("parallel_run_config", parallel_run_config, "a ParallelRunConfig")
        checked_inputs = check_inputs(inputs)
        checked_sides = check_side_inputs(side_inputs, parallel_run_config)
        checked_arguments = check_arguments(arguments, checked_sides)
        check_driver_arguments(parallel_run_config, checked_arguments)
        _check_output(output)
        _check_pool(routed["run"], parallel_run_config)
        mini_batches.check(parallel_run_config, checked_inputs)

        # In the order of the Trigger form.
        references = _References(self.dag, str(self.group_id))
        split = SplitOperator(
            task_id="split",
            dag=self.dag,
            task_group=self,
            inputs=references.inputs(checked_inputs),
            side_inputs=references.inputs(checked_sides, "side_inputs"),
            arguments=references.arguments(checked_arguments),
            config=references.config(parallel_run_config),
            output_folder=output,
            origins=references.origins,
            allow_reuse=rules.flag("allow_reuse", allow_reuse),
            **routed["split"],
        )
        run = NodeOperator.partial(
            task_id="run",
            dag=self.dag,
            task_group=self,
            map_index_template=TITLE_TEMPLATE,
            trigger_rule=TriggerRule.ALL_SUCCESS,
            **{**routed["run"], **retry_arguments(self.dag, self, routed["run"])},
        ).expand(node=split.output)
        reduce = ReduceOperator(
            task_id="reduce",
            dag=self.dag,
            task_group=self,
            trigger_rule=TriggerRule.ALL_DONE,
            split_task_id=split.task_id,
            **routed["reduce"],
        )
        split >> [run, reduce]
        run >> reduce

    @property
    def output(self) -> XComArg:
        """Where the result is, as text: the output file with ``append_row``, else the output folder."""
        return XComArg(self.dag.get_task(f"{self.group_id}.reduce"), key=OUTPUT_KEY)


class _References:
    """Puts a reference in the place of each pipeline parameter, and remembers which stands where."""

    def __init__(self, dag: DAG, step: str) -> None:
        self._dag = dag
        self._step = step
        self.origins: dict[str, str] = {}

    def config(self, config: ParallelRunConfig) -> dict[str, Any]:
        document: dict[str, Any] = config.to_dict()
        parameters = config.pipeline_parameters()
        for field, schema in FIELD_SCHEMAS.items():
            if field in parameters:
                document[field] = self._refer(parameters[field], schema, field)
        return document

    def inputs(self, inputs: Sequence[DatasetInput], setting: str = "inputs") -> list[dict[str, Any]]:
        documents = []
        for index, item in enumerate(inputs):
            document = item.to_dict()
            if isinstance(item.dataset, PipelineParameter):
                document["paths"] = self._refer(item.dataset, DATASET_SCHEMA, setting, index)
            documents.append(document)
        return documents

    def arguments(self, arguments: Sequence[Any]) -> list[Any]:
        resolved = []
        for index, item in enumerate(arguments):
            if isinstance(item, PipelineParameter):
                option = arguments[index - 1]
                named = option if isinstance(option, str) and option.startswith("-") else None
                resolved.append(self._refer(item, argument_schema(item), "arguments", index, named))
                if named and named[2:] in driver_arguments.FIELDS:
                    self.origins[named] = item.name
            else:
                resolved.append(item)
        return resolved

    def _refer(
        self,
        parameter: PipelineParameter,
        schema: Mapping[str, Any],
        setting: str,
        index: int | None = None,
        option: str | None = None,
    ) -> DagParam:
        place = setting if index is None else f"{setting}[{index}]"
        self.origins[place] = parameter.name
        return add_field(self._dag, parameter, schema, Place(setting, option or place, self._step))


def _check_output(output: object) -> None:
    if output is not None and not (isinstance(output, str | XComArg) and output):
        raise InvalidValueError("output", output, "the path of a folder, or a URL")
    if isinstance(output, str) and is_remote(output):
        check_scheme(output)


def _check_pool(run_arguments: dict[str, Any], config: ParallelRunConfig) -> None:
    """Take the pool from ``compute_target``; a default one leaves the choice to ``default_args``."""
    pool = config.pool
    if pool == _DEFAULT_POOL:
        return
    if run_arguments.setdefault("pool", pool) != pool:
        rule = f"left out, or the same as the compute_target's pool {pool!r}"
        raise InvalidValueError("pool", run_arguments["pool"], rule)


def _group_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    names = {"task_group": "parent_group", "task_display_name": "group_display_name"}
    return {names.get(name, name): value for name, value in arguments.items()}


def _refuse_mapped_group(group: TaskGroup) -> None:
    if next(group.iter_mapped_task_groups(), None) is not None:
        raise NotSupportedError(
            f"ParallelRunOperator {group.label!r} inside a mapped task group",
            "Give it all inputs at once (inputs takes several), or place one operator for each.",
        )
