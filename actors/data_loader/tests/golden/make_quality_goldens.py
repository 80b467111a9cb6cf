"""Writes quality.json: what cleanlab, SciPy and NumPy answer for small inputs.

    pip install cleanlab==2.9.0 scipy==1.17.1
    python make_quality_goldens.py
"""

import json
import pathlib
import warnings

import numpy as np
from cleanlab.count import compute_confident_joint, get_confident_thresholds
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores, order_label_issues
from scipy import stats

warnings.filterwarnings("ignore")
rng = np.random.default_rng(20)


def confident(classes, rows, noise, sharpness, absent=()):
    """Labels with noise, and probabilities that lean to the true class."""
    truth = rng.integers(0, classes, rows)
    truth[np.isin(truth, absent)] = 0
    wrong = rng.random(rows) < noise
    labels = np.where(wrong, (truth + 1) % classes, truth)
    labels[np.isin(labels, absent)] = 0
    scores = rng.normal(size=(rows, classes))
    scores[np.arange(rows), truth] += sharpness
    odds = np.exp(scores)
    probabilities = np.round(odds / odds.sum(axis=1, keepdims=True), 7)
    issues = find_label_issues(labels, probabilities, n_jobs=1)
    ranks = order_label_issues(issues, labels, probabilities, rank_by="normalized_margin")
    thresholds = get_confident_thresholds(labels, probabilities)
    return {
        "labels": labels.tolist(),
        "probabilities": probabilities.ravel().tolist(),
        "classes": classes,
        "thresholds": [t if t <= 1 else None for t in thresholds.tolist()],
        "joint": compute_confident_joint(labels, probabilities).tolist(),
        "issues": np.flatnonzero(issues).tolist(),
        "by_normalized_margin": ranks.tolist(),
        "normalized_margin": get_label_quality_scores(labels, probabilities, method="normalized_margin").tolist(),
    }


def outliers():
    values = np.round(rng.standard_t(2, 80) * 10, 4)
    values[[3, 40]] = np.nan
    filled = np.where(np.isnan(values), np.nanmedian(values), values)
    quartiles = np.nanquantile(values, [0.25, 0.5, 0.75])
    return {
        "values": [None if np.isnan(v) else v for v in values.tolist()],
        "z_scores": stats.zscore(filled).tolist(),
        "quartiles": quartiles.tolist(),
    }


cases = [
    confident(2, 120, 0.15, 1.5),
    confident(2, 60, 0.4, 0.5),
    confident(3, 150, 0.2, 2.0),
    confident(5, 160, 0.3, 1.0),
    confident(4, 90, 0.25, 1.5, absent=(2,)),
]
target = pathlib.Path(__file__).with_name("quality.json")
target.write_text(json.dumps({"confident": cases, "outliers": outliers()}) + "\n")
