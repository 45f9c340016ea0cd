# SPDX-License-Identifier: Apache-2.0
"""Measurements of the whole, to be run by hand on a quiet machine: ``python -m benchmarks.<name>``."""
