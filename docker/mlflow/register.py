"""Waits for the tracking server, then registers two versions of the model `iris`, unless they are there."""

import time
import urllib.request

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

MODEL = "iris"


def wait_for_server() -> None:
    deadline = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(f"{mlflow.get_tracking_uri()}/health", timeout=2)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def register() -> None:
    client = mlflow.MlflowClient()
    try:
        client.get_model_version(MODEL, "2")
        return
    except MlflowException:
        pass
    features, species = load_iris(return_X_y=True)
    # Version 1 hardly learns; version 2 does.
    for iterations in (2, 500):
        model = LogisticRegression(max_iter=iterations).fit(features, species)
        signature = infer_signature(features, model.predict(features))
        with mlflow.start_run():
            mlflow.sklearn.log_model(model, name="model", registered_model_name=MODEL, signature=signature)
    client.set_registered_model_alias(MODEL, "champion", "1")


wait_for_server()
register()
