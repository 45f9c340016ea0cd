# SPDX-License-Identifier: Apache-2.0
"""The Airflow face: a task group of three tasks over the engine."""
