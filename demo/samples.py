# SPDX-License-Identifier: Apache-2.0
"""Data of the smaller example DAGs: scikit-learn's table of irises with a model, sound files, and sales."""

from __future__ import annotations

import pickle
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Raise it when the data change: what an older version made is then made again.
VERSION = "1"
IRIS_MODEL = "iris-prs"
SOUNDS = (
    "user1/winter/disco",
    "user1/fall/orchestra",
    "user2/summer/piano",
    "user3/fall/spirituality",
    "user4/spring/piano",
    "user4/fall/piano",
)
STORES, BRANDS, WEEKS = (2, 5, 8), ("dominicks", "minute.maid", "tropicana"), 20

_SEED = 6


@dataclass(frozen=True)
class SampleData:
    """Where the data of the samples lie.

    :param root: one folder for all of it.
    """

    root: Path

    def is_made(self) -> bool:
        """Tell whether this version's data are complete."""
        return self._mark.exists() and self._mark.read_text() == VERSION

    def make(self) -> None:
        """Make all of it, and register the model."""
        self._make_iris()
        self._make_sounds()
        self._make_sales()
        self._mark.write_text(VERSION)

    @property
    def _mark(self) -> Path:
        return self.root / "samples-version"

    def _make_iris(self) -> None:
        from sklearn.linear_model import LogisticRegression

        from airflow_parallelrun.models import ModelRegistry

        table = iris()
        folder = self.root / "iris"
        folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(folder / "iris.csv", index=False)
        # Every other flower is for learning; on the rest one can see what it has learned.
        known = table.iloc[::2]
        model = LogisticRegression(max_iter=1000).fit(known.iloc[:, :4], known["variety"])
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / IRIS_MODEL
            path.write_bytes(pickle.dumps(model))
            ModelRegistry(self.root / "models").register(path, IRIS_MODEL, description="Variety of an iris")

    def _make_sounds(self) -> None:
        for place, name in enumerate(SOUNDS, 1):
            path = self.root / "sounds" / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(1000 * place))

    def _make_sales(self) -> None:
        folder = self.root / "sales"
        folder.mkdir(parents=True, exist_ok=True)
        sales().to_csv(folder / "sales.csv", index=False)


def iris() -> pd.DataFrame:
    """Return the 150 irises: four measures in cm, and the variety."""
    from sklearn.datasets import load_iris

    data = load_iris(as_frame=True)
    table: pd.DataFrame = data.data.copy()
    table.columns = ["sepal.length", "sepal.width", "petal.length", "petal.width"]
    table["variety"] = [f"Iris-{data.target_names[kind]}" for kind in data.target]
    return table


def sales() -> pd.DataFrame:
    """Return made-up sales of orange juice, with the columns of the well-known table of a Chicago grocer."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(_SEED)
    rows = []
    for store in STORES:
        district = dict(zip(_DISTRICT, random.random(len(_DISTRICT)).round(6), strict=True))
        for brand in BRANDS:
            for week in pd.date_range("1990-06-14", periods=WEEKS, freq="7D"):
                quantity = int(random.integers(1_000, 40_000))
                rows.append(
                    {
                        "WeekStarting": f"{week:%Y-%m-%d}",
                        "Store": store,
                        "Brand": brand,
                        "Quantity": quantity,
                        "logQuantity": round(float(np.log(quantity)), 6),
                        "Advert": int(random.integers(2)),
                        "Price": round(float(random.uniform(1, 3)), 2),
                        **district,
                    }
                )
    return pd.DataFrame(rows)


_DISTRICT = (
    "Age60",
    "COLLEGE",
    "INCOME",
    "Hincome150",
    "Large HH",
    "Minorities",
    "WorkingWoman",
    "SSTRDIST",
    "SSTRVOL",
    "CPDIST5",
    "CPWVOL5",
)


if __name__ == "__main__":
    SampleData(Path(sys.argv[1])).make()
