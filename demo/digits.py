# SPDX-License-Identifier: Apache-2.0
"""Real data for the demo: scikit-learn's 1,797 handwritten digits as images to label, and a trained model.

The digits come from https://archive.ics.uci.edu/dataset/80 and ship inside scikit-learn. 800 of them become
28x28 images, as MNIST has them; a small network learns from the other 997 and never sees the 800.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from airflow_parallelrun.models import RegisteredModel

    Images = NDArray[np.uint8]
    Labels = NDArray[np.int64]

# Raise it when the images or the training change: what an older version made is then made again.
VERSION = "1"
IMAGES = 800
MODEL_NAME = "mnist"
CHECKPOINT = "mnist-tf.model"

_SEED = 20
_SIDE = 28
_DIGIT_SIDE = 20
_HIDDEN_UNITS = 128
_STEPS = 1200
_BATCH = 100
_LARGEST_SHIFT = 2


@dataclass(frozen=True)
class DemoData:
    """Where everything of the demo lies.

    :param root: one folder for all of it.
    """

    root: Path

    @property
    def images(self) -> Path:
        """The input folder; nothing but images is in it."""
        return self.root / "mnist"

    @property
    def labels(self) -> Path:
        """The right answers, as ``file,label`` rows."""
        return self.root / "labels.csv"

    @property
    def models(self) -> Path:
        """The model registry."""
        return self.root / "models"

    def read_labels(self) -> dict[str, str]:
        """Return the right digit of each image file."""
        with self.labels.open(newline="") as file:
            return {row["file"]: row["label"] for row in csv.DictReader(file)}

    def has_images(self) -> bool:
        """Tell whether this version's images are complete."""
        mark = self._images_mark
        return mark.exists() and mark.read_text() == VERSION

    def make_images(self) -> None:
        """Write the images and, beside their folder, the labels."""
        from PIL import Image

        self._images_mark.unlink(missing_ok=True)
        shutil.rmtree(self.images, ignore_errors=True)
        self.images.mkdir(parents=True)
        images, labels = _digits()
        with self.labels.open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["file", "label"])
            for index, (image, label) in enumerate(zip(images[:IMAGES], labels[:IMAGES], strict=True)):
                name = f"{index:04d}.png"
                Image.fromarray(image).save(self.images / name)
                rows.writerow([name, int(label)])
        self._images_mark.write_text(VERSION)

    def model(self) -> RegisteredModel | None:
        """Return the registered model, or None if this version is not trained yet."""
        from airflow_parallelrun.models import ModelRegistry

        found = [model for model in ModelRegistry(self.models).list() if model.name == MODEL_NAME]
        latest = max(found, key=lambda model: model.version, default=None)
        return latest if latest and (latest.tags or {}).get("demo") == VERSION else None

    def train_model(self) -> None:
        """Train the network on the digits that are not in the input folder, and register it."""
        from airflow_parallelrun.models import ModelRegistry

        images, labels = _digits()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Path(folder) / MODEL_NAME
            checkpoint.mkdir()
            train(images[IMAGES:], labels[IMAGES:], checkpoint)
            ModelRegistry(self.models).register(
                checkpoint,
                MODEL_NAME,
                tags={"demo": VERSION},
                description="Digits, 784-128-10, TensorFlow 1 style checkpoint",
            )

    @property
    def _images_mark(self) -> Path:
        return self.root / "images-version"


def train(images: Images, labels: Labels, folder: Path) -> None:
    """Train on 28x28 images and write a TensorFlow 1 style meta-graph checkpoint into ``folder``.

    Its tensors ``network/X:0`` (any number of rows of 784 grey values, 0 to 255) and
    ``network/output/MatMul:0`` (a score for each digit) are what the original tutorial's script asks for.
    """
    import numpy as np
    import tensorflow.compat.v1 as tf

    random = np.random.default_rng(_SEED)
    graph = tf.Graph()
    with graph.as_default():
        tf.set_random_seed(_SEED)
        pixels, scores = _network(tf)
        answers = tf.placeholder(tf.int64, [None], name="answers")
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=answers, logits=scores))
        step = tf.train.AdamOptimizer(0.001).minimize(loss)
        # Relative paths, so that the checkpoint can be copied and tells nothing about this machine.
        saver = tf.train.Saver(tf.trainable_variables(), save_relative_paths=True)
        # One thread, so that the sums are always added in the same order.
        config = tf.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
        with tf.Session(graph=graph, config=config) as session:
            session.run(tf.global_variables_initializer())
            for _ in range(_STEPS):
                chosen = random.integers(len(images), size=_BATCH)
                batch = np.stack([_shifted(image, random) for image in images[chosen]])
                session.run(step, {pixels: batch.reshape(_BATCH, -1), answers: labels[chosen]})
            saver.save(session, str(folder / CHECKPOINT))


def _network(tf: Any) -> tuple[Any, Any]:
    def weights(name: str, rows: int, columns: int) -> Any:
        start = tf.random.truncated_normal([rows, columns], stddev=(2 / rows) ** 0.5, seed=_SEED)
        return tf.Variable(start, name=name)

    with tf.name_scope("network"):
        pixels = tf.placeholder(tf.float32, [None, _SIDE * _SIDE], name="X")
        with tf.name_scope("hidden"):
            bias = tf.Variable(tf.zeros([_HIDDEN_UNITS]), name="bias")
            product = tf.matmul(pixels / 255.0, weights("weights", _SIDE * _SIDE, _HIDDEN_UNITS))
            hidden = tf.nn.relu(product + bias)
        with tf.name_scope("output"):
            scores = tf.matmul(hidden, weights("weights", _HIDDEN_UNITS, 10))
    return pixels, scores


def _digits() -> tuple[Images, Labels]:
    """Return all digits as 28x28 images with a margin like MNIST's, in an order that is always the same."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(_SEED).permutation(len(data.images))
    margin = (_SIDE - _DIGIT_SIDE) // 2
    images = np.zeros((len(order), _SIDE, _SIDE), np.uint8)
    for place, index in enumerate(order):
        # 17 grey levels become 256.
        small = Image.fromarray((data.images[index] * (255 / 16)).round().astype(np.uint8))
        digit = small.resize((_DIGIT_SIDE, _DIGIT_SIDE), Image.Resampling.BICUBIC)
        images[place, margin:-margin, margin:-margin] = np.asarray(digit)
    return images, data.target[order].astype(np.int64)


def _shifted(image: Images, random: np.random.Generator) -> Images:
    """Move the digit by up to two pixels; its margin is wider than that."""
    import numpy as np

    down, right = random.integers(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, size=2)
    return np.roll(image, (int(down), int(right)), axis=(0, 1))


def main(root: str, what: str) -> None:
    """Make the images or the model, in a process that ends and gives TensorFlow's memory back."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    data = DemoData(Path(root))
    if what == "images":
        data.make_images()
    else:
        data.train_model()


if __name__ == "__main__":
    main(*sys.argv[1:])
