# SPDX-License-Identifier: Apache-2.0
"""Add up the income of each store and brand."""


def run(mini_batch, mini_batch_context):
    """Return the rows of a store and a brand with one column more: the sum of their incomes."""
    print(f"{mini_batch_context.partition_key_value}: {len(mini_batch)} rows")
    mini_batch["total_income"] = mini_batch["INCOME"].sum()
    return mini_batch
