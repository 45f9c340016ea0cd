# SPDX-License-Identifier: Apache-2.0
"""What the operators take from the Airflow deployment."""
