# SPDX-License-Identifier: Apache-2.0
"""The engine: split, nodes, reduce. It knows nothing of Airflow."""
