"""Writes forest.json: what scikit-learn answers for small inputs, and, given the folder of the adult data set, how good
its random forest is there.

    pip install scikit-learn==1.9.1
    python make_forest_goldens.py DATA
"""

import json
import pathlib
import sys

import numpy as np
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score

rng = np.random.default_rng(7)


def logistic(classes):
    rows = np.round(rng.normal(size=(60, 5)) * (rng.random((60, 5)) < 0.6), 3).astype(np.float32).astype(np.float64)
    labels = (rows @ rng.normal(size=(5, classes)) + 0.7 * rng.normal(size=(60, classes))).argmax(axis=1)
    scores = []
    for of in [1] if classes == 2 else range(classes):
        model = LogisticRegression(C=2.0, tol=1e-12, max_iter=10_000).fit(rows, labels == of)
        scores.append(model.predict_proba(rows)[:, 1])
    scores = np.array(scores).T
    if classes == 2:
        scores = np.hstack([1 - scores, scores])
    scores /= scores.sum(axis=1, keepdims=True)
    return {"rows": rows.tolist(), "labels": labels.tolist(), "classes": classes, "probabilities": scores.tolist()}


def isolation():
    rows = rng.normal(size=(400, 3))
    rows[:, 2] = np.round(rng.exponential(size=400), 2)
    rows[380:] += rng.choice([-4.0, 4.0], size=(20, 3))
    rows = np.round(rows, 3)
    scores = [
        -IsolationForest(n_estimators=300, random_state=seed).fit(rows).score_samples(rows) for seed in range(4)
    ]
    return {"rows": rows.tolist(), "anomalies_from": 380, "scores": np.mean(scores, axis=0).tolist()}


def adult(folder):
    """Categories by their rank among the texts of the training file; what is not known there, and missing, is -1."""

    def table(name):
        lines = (folder / "adult" / name).read_text().splitlines()
        return [[field.strip() for field in line.split(",")] for line in lines if line.strip()]

    (header, *train), (_, *test) = table("adult.data"), table("adult.test")
    labels = [np.array([row[-1].rstrip(".") == ">50K" for row in part]) for part in (train, test)]
    columns = []
    for at, name in enumerate(header[:-1]):
        if name == "fnlwgt":
            continue
        texts = sorted({row[at] for row in train} - {"?"})
        if all(text.lstrip("-").isdigit() for text in texts):
            columns.append([[float(row[at]) for row in part] for part in (train, test)])
        else:
            rank = {text: float(place) for place, text in enumerate(texts)}
            columns.append([[rank.get(row[at], -1.0) for row in part] for part in (train, test)])
    matrices = [np.array([column[part] for column in columns]).T for part in (0, 1)]
    answers = []
    for seed in range(3):
        model = RandomForestClassifier(100, min_samples_leaf=5, random_state=seed).fit(matrices[0], labels[0])
        chances = model.predict_proba(matrices[1])[:, 1]
        answers.append((roc_auc_score(labels[1], chances), accuracy_score(labels[1], chances >= 0.5)))
    auc, accuracy = np.mean(answers, axis=0).tolist()
    return {"leaf_rows": 5, "auc": auc, "accuracy": accuracy}


goldens = {"logistic": [logistic(2), logistic(3)], "isolation": isolation(), "adult": adult(pathlib.Path(sys.argv[1]))}
pathlib.Path(__file__).with_name("forest.json").write_text(json.dumps(goldens) + "\n")
