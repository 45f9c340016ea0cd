# SPDX-License-Identifier: Apache-2.0
"""What Airflow's provider discovery reads."""

from __future__ import annotations

from typing import Any

from airflow_parallelrun import __version__

_DATASTORE: dict[str, Any] = {
    "connection-type": "parallelrun_datastore",
    "hook-class-name": "airflow_parallelrun.hooks.datastore.DatastoreHook",
    "hook-name": "Datastore (fsspec)",
    "ui-field-behaviour": {
        "hidden-fields": ["host", "login", "port", "schema"],
        "relabeling": {"password": "Secret options (JSON)"},
        "placeholders": {"password": '{"connection_string": "…"}'},
    },
    "conn-fields": {
        "protocol": {
            "label": "Protocol",
            "description": "What URLs of this store begin with; any protocol that fsspec knows.",
            "schema": {
                "type": "string",
                "minLength": 1,
                "examples": ["abfs", "s3", "gs", "sftp", "smb", "hdfs", "webhdfs", "ftp", "https"],
            },
        },
        "root": {
            "label": "Root",
            "description": "What a test of the connection lists: a container, a bucket, or a folder in it.",
            "schema": {"type": ["string", "null"]},
        },
        "options": {
            "label": "Options",
            "description": "What the driver is given; secrets belong into the secret options.",
            "schema": {"type": ["object", "null"]},
        },
    },
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description in the form of Airflow's provider_info.schema.json."""
    return {
        "package-name": "airflow-provider-parallelrun",
        "name": "Parallel Run",
        "description": "Batch inference on your own Airflow, the open successor of ParallelRunStep.",
        "versions": [__version__],
        "integrations": [{"integration-name": "Parallel Run", "tags": ["software"]}],
        "operators": [
            {
                "integration-name": "Parallel Run",
                "python-modules": ["airflow_parallelrun.operators.parallel_run"],
            }
        ],
        "hooks": [
            {
                "integration-name": "Parallel Run",
                "python-modules": ["airflow_parallelrun.hooks.datastore"],
            }
        ],
        "connection-types": [_DATASTORE],
        "extra-links": [
            f"airflow_parallelrun.operators.links.{name}"
            for name in ("EarlierRunLink", "ErrorReportLink", "JobResultLink", "OutputLink")
        ],
        "config": {
            "parallelrun": {
                "description": "Where ParallelRunOperator and the parallelrun command keep what they need.",
                "options": {
                    "models_root": {
                        "description": (
                            "Folder of the model registry, <models_root>/<name>/<version>/, which every "
                            "worker must see; or a URL, whose models each machine fetches once. "
                            "The environment variable PARALLELRUN_MODELS_ROOT comes first."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "abfs://connection@container/models",
                        "default": "",
                    },
                    "models_cache": {
                        "description": (
                            "Folder of each worker machine for models that were fetched. "
                            "The environment variable PARALLELRUN_MODELS_CACHE comes first. "
                            "Empty: parallelrun-models-<user id> in the folder for temporary files."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/mnt/local/models",
                        "default": "",
                    },
                    "models_cache_bytes": {
                        "description": (
                            "How much models_cache may hold: bytes, or a size such as 50GB. "
                            "The environment variable PARALLELRUN_MODELS_CACHE_BYTES comes first. "
                            "Empty: 20GB."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "50GB",
                        "default": "",
                    },
                    "storage_root": {
                        "description": (
                            "Folder in which every run gets its run directory, and a step without output its "
                            "output folders. "
                            "Empty: .parallelrun in the run's own output folder. "
                            "Every worker must see it."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "/mnt/shared/parallelrun",
                        "default": "",
                    },
                },
            }
        },
    }
