"""A person at a Python prompt: runs each line of standard input, where `client` is an MlflowClient, and says how it went.

The outcome of line n is printed as `#n ok VALUE` or `#n failed MESSAGE`.
"""

import sys
import warnings

warnings.simplefilter("ignore")

import mlflow
import mlflow.sklearn
import numpy as np
from mlflow import MlflowClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

client = MlflowClient()


def train(name):
    """Fits two classifiers of irises and registers them as versions 1 and 2 of the model `name`.

    Version 1 looks at the petal's length only, version 2 at all four measurements: so they differ on some flowers.
    """
    x, y = load_iris(return_X_y=True)
    # The same flowers as model-server/fit.py.
    rows, _ = train_test_split(np.arange(len(y)), test_size=0.3, random_state=1, stratify=y)
    mlflow.set_experiment(name)
    for columns in ([2], [0, 1, 2, 3]):
        seen = np.zeros_like(x)
        seen[:, columns] = x[:, columns]
        model = LogisticRegression(max_iter=10_000).fit(seen[rows], y[rows])
        with mlflow.start_run():
            # Named so that MLflow need not find out by running the model.
            mlflow.sklearn.log_model(model, name="model", registered_model_name=name, pip_requirements=["scikit-learn"])


def register_again(name, like):
    """Registers the two versions of the model `like` under another name."""
    client.create_registered_model(name)
    for version in ("1", "2"):
        register_version_again(name, like, version)


def register_version_again(name, like, version):
    """Registers a version of the model `like` as the next version of another model."""
    known = client.get_model_version(like, version)
    logged = known.source.removeprefix("models:/")
    return client.create_model_version(name, known.source, known.run_id, model_id=logged).version


for number, line in enumerate(sys.stdin, 1):
    try:
        print(f"#{number} ok {eval(line)!r}", flush=True)
    except Exception as error:
        print(f"#{number} failed {error!r}", flush=True)
