# SPDX-License-Identifier: Apache-2.0
"""The demo's images and its model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from airflow_parallelrun.models import ModelRegistry
from demo.digits import IMAGES, VERSION, DemoData, _digits

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own, as in the demo: TensorFlow's warnings and threads stay out of the test process.
_PREDICT = """
import sys
import numpy as np
import tensorflow.compat.v1 as tf

pixels = np.load(sys.argv[2])
with tf.Session(graph=tf.Graph()) as session:
    tf.train.import_meta_graph(sys.argv[1] + ".meta").restore(session, sys.argv[1])
    scores = session.run("network/output/MatMul:0", {"network/X:0": pixels})
np.save(sys.argv[3], scores.argmax(axis=1))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    """Make the images and the model once."""
    made = DemoData(tmp_path_factory.mktemp("digits"))
    for what in ("images", "model"):
        subprocess.run([sys.executable, "-m", "demo.digits", str(made.root), what], cwd=ROOT, check=True)
    return made


def test_the_input_folder_has_only_grayscale_images_of_28x28(data: DemoData) -> None:
    files = sorted(data.images.iterdir())
    assert [file.name for file in files] == [f"{index:04d}.png" for index in range(IMAGES)]
    for file in files:
        with Image.open(file) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (28, 28))


def test_digits_are_white_on_black_with_a_margin(data: DemoData) -> None:
    pixels = _pixels(data)
    assert pixels.max() == 255
    assert not pixels[:, :4].any()
    assert not pixels[:, :, -4:].any()


def test_every_image_has_a_label_and_all_digits_occur(data: DemoData) -> None:
    labels = data.read_labels()
    assert set(labels) == {file.name for file in data.images.iterdir()}
    assert set(labels.values()) == set("0123456789")


def test_the_training_digits_are_the_others() -> None:
    images, labels = _digits()
    assert len(images) == len(labels) == 1797
    seen = {image.tobytes() for image in images[IMAGES:]}
    assert len(seen) == 1797 - IMAGES
    assert not any(image.tobytes() in seen for image in images[:IMAGES])


def test_making_the_images_again_gives_the_same_bytes(data: DemoData, tmp_path: Path) -> None:
    again = DemoData(tmp_path)
    again.make_images()
    for file in data.images.iterdir():
        assert (again.images / file.name).read_bytes() == file.read_bytes()
    assert again.labels.read_bytes() == data.labels.read_bytes()


def test_what_another_version_made_does_not_count(data: DemoData, tmp_path: Path) -> None:
    assert data.has_images()
    model = data.model()
    assert model is not None
    assert model.tags == {"demo": VERSION}

    other = DemoData(tmp_path)
    assert not other.has_images()
    assert other.model() is None
    ModelRegistry(other.models).register(data.labels, "mnist", tags={"demo": "0"})
    assert other.model() is None


def test_the_model_reads_images_that_it_never_saw(data: DemoData, tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", _pixels(data).reshape(IMAGES, -1))
    checkpoint = Path(ModelRegistry(data.models).path("mnist")) / "mnist-tf.model"
    argv = [sys.executable, "-c", _PREDICT, checkpoint, tmp_path / "pixels.npy", tmp_path / "digits.npy"]
    subprocess.run(argv, check=True)
    right = np.array([int(label) for _, label in sorted(data.read_labels().items())])
    assert (np.load(tmp_path / "digits.npy") == right).mean() >= 0.93


def test_the_checkpoint_tells_nothing_about_this_machine(data: DemoData) -> None:
    folder = Path(ModelRegistry(data.models).path("mnist"))
    names = sorted(file.name for file in folder.iterdir())
    stem = "mnist-tf.model"
    assert names == ["checkpoint", f"{stem}.data-00000-of-00001", f"{stem}.index", f"{stem}.meta"]
    for file in folder.iterdir():
        content = file.read_bytes()
        assert str(ROOT).encode() not in content
        assert b"/tmp" not in content
        assert sys.prefix.encode() not in content


def _pixels(data: DemoData) -> np.ndarray:
    images = []
    for file in sorted(data.images.iterdir()):
        with Image.open(file) as image:
            images.append(np.asarray(image))
    return np.stack(images)
