# SPDX-License-Identifier: Apache-2.0
"""Measurements, to be run by hand on a quiet machine.

``python -m benchmarks`` (``make bench``) compares this project with what people would use instead;
``python -m benchmarks.airflow_overhead`` and ``python -m benchmarks.memory`` look at one thing each.
"""
