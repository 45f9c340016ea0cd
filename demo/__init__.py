# SPDX-License-Identifier: Apache-2.0
"""The demo: real digits, a real Airflow, one output file. ``make demo`` runs it."""
