# SPDX-License-Identifier: Apache-2.0
"""Say which iris each row is of.

The script runs as it did on Azure ML's ParallelRunStep. Where the ``azureml`` packages are not installed, the
worker process provides ``azureml.core.Model`` and ``azureml_user.parallel_run.EntryScript``.
"""

import argparse
import pickle

from azureml.core import Model
from azureml_user.parallel_run import EntryScript


def init():
    """Load the model that ``--model_name`` names; called once per process."""
    global model
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model_name", required=True)
    arguments, _ = parser.parse_known_args()
    path = Model.get_model_path(arguments.model_name)
    EntryScript().logger.info("the model is %s", path)
    with open(path, "rb") as file:
        model = pickle.load(file)


def run(input_data):
    """Return the four measures of each row, and the variety that they are of."""
    measures = input_data.iloc[:, :4]
    EntryScript().logger.info("%d rows", len(measures))
    return measures.assign(variety=model.predict(measures))
