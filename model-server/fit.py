#!/usr/bin/env python3
"""Fits both versions of the iris classifier and prints the constants of src/model.rs.

    python3 -m venv target/fit && target/fit/bin/pip install scikit-learn==1.9.1
    target/fit/bin/python model-server/fit.py            # prints the constants and the figures
    target/fit/bin/python model-server/fit.py --check    # exits 1 if src/model.rs or iris.csv say anything else
    target/fit/bin/python model-server/fit.py --write-data   # writes iris.csv, the data set with its split

Both are softmax (multinomial logistic) regressions, fitted on the same 105 of Fisher's 150 flowers; the other 45,
drawn by species, are held out. Version 1 looks at the petal's length only, version 2 at all four measurements.
"""

import pathlib
import sys

import numpy as np
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

HERE = pathlib.Path(__file__).resolve().parent
FEATURES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
# Which columns each version was given; a column that it was not given has the weight 0.
VERSIONS = {1: [2], 2: [0, 1, 2, 3]}
HELD_OUT = 0.3
SEED = 1
DECIMALS = 4


def fit(x, y, columns):
    """The weights (3 classes x 4 features) and intercepts, rounded as they are printed."""
    model = LogisticRegression(max_iter=10_000, tol=1e-8).fit(x[:, columns], y)
    weights = np.zeros((3, len(FEATURES)))
    weights[:, columns] = model.coef_
    return weights.round(DECIMALS) + 0.0, model.intercept_.round(DECIMALS) + 0.0


def predict(weights, intercepts, x):
    return (x @ weights.T + intercepts).argmax(axis=1)


def rust(version, weights, intercepts):
    def row(values):
        return ", ".join(f"{value:.{DECIMALS}f}" for value in values)

    lines = [f"const VERSION_{version}: Model = Model {{", "    weights: ["]
    lines += [f"        [{row(weights[k])}]," for k in range(3)]
    lines += ["    ],", f"    intercepts: [{row(intercepts)}],", "};"]
    return "\n".join(lines)


def without_layout(source):
    """rustfmt breaks the lines as it likes."""
    return "".join(source.split()).replace(",]", "]")


def main():
    iris = load_iris()
    x, y = iris.data, iris.target
    train, held_out = train_test_split(np.arange(len(y)), test_size=HELD_OUT, random_state=SEED, stratify=y)

    constants, predictions = [], {}
    for version, columns in VERSIONS.items():
        weights, intercepts = fit(x[train], y[train], columns)
        predictions[version] = predict(weights, intercepts, x)
        constants.append(rust(version, weights, intercepts))
    data = [",".join(FEATURES + ["species", "part"])]
    for index in range(len(y)):
        part = "held_out" if index in held_out else "fit"
        data.append(",".join([*(f"{value:.1f}" for value in x[index]), str(y[index]), part]))
    csv = "\n".join(data) + "\n"

    print("\n\n".join(constants), "\n")
    for version, predicted in predictions.items():
        right = predicted == y
        print(f"version {version}: {right[held_out].sum()} of {len(held_out)} held-out flowers right,",
              f"{right.sum()} of all {len(y)}")
    print("the versions differ on:")
    for index in np.nonzero(predictions[1] != predictions[2])[0]:
        print(f"  row {index:3} {x[index].tolist()} ({'held out' if index in held_out else 'fitted on'}):",
              f"version 1 says {predictions[1][index]}, version 2 says {predictions[2][index]}, it is {y[index]}")

    if "--write-data" in sys.argv:
        (HERE / "iris.csv").write_text(csv)
    if "--check" in sys.argv:
        source = without_layout((HERE / "src" / "model.rs").read_text())
        stale = [f"src/model.rs lacks\n{block}" for block in constants if without_layout(block) not in source]
        if not (HERE / "iris.csv").exists() or (HERE / "iris.csv").read_text() != csv:
            stale.append("iris.csv is not the data set with this split (--write-data writes it)")
        if stale:
            sys.exit("\n".join(stale))
        print("src/model.rs and iris.csv say the same")


if __name__ == "__main__":
    main()
