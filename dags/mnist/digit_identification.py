# SPDX-License-Identifier: Apache-2.0
"""Say which digit is on each image of a mini-batch.

The script runs as it did on Azure ML's ParallelRunStep. Where the ``azureml`` package is not installed, the
worker process provides ``azureml.core.Model``.
"""

import json
import os
from pathlib import Path

# Before TensorFlow is imported: warnings and errors only, and sums in the same order on every machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import tensorflow.compat.v1 as tf
from azureml.core import Model
from PIL import Image

# What lies beside the script is found beside it, wherever the code runs from.
NETWORK = json.loads((Path(__file__).resolve().parent / "network.json").read_text())


def init():
    """Load the model; called once per process."""
    global session
    checkpoint = str(Path(Model.get_model_path("mnist")) / NETWORK["checkpoint"])
    # The processes share the cores already; threads of each would only wait for one another.
    config = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    session = tf.Session(graph=tf.Graph(), config=config)
    with session.graph.as_default():
        tf.train.import_meta_graph(checkpoint + ".meta").restore(session, checkpoint)


def run(mini_batch):
    """Return ``<file name>: <digit>`` for each image."""
    pixels = np.stack([read_image(path) for path in mini_batch])
    scores = session.run(NETWORK["scores"], {NETWORK["input"]: pixels})
    digits = scores.argmax(axis=1)
    return [f"{Path(path).name}: {digit}" for path, digit in zip(mini_batch, digits, strict=True)]


def read_image(path):
    """Return the grey values of one image in a row."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize(NETWORK["image_size"])).reshape(-1)
