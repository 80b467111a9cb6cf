"""Writes metrics.json: what scikit-learn 1.9 says about small labels and predictions.

Run `python metrics_ref.py` where scikit-learn 1.9 is installed. `null` stands for a metric that we
call undefined. Where our definition differs on purpose, the line says "ours".
"""

import json
import math
import pathlib
import warnings

import numpy as np
import sklearn.metrics as sk

warnings.simplefilter("ignore")
ZERO_DIVISION = {"zero": 0.0, "one": 1.0, "undefined": np.nan}


def defined(compute):
    """The number, or None where scikit-learn has none."""
    try:
        value = float(compute())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def regression(name, y, p):
    y, p = np.array(y, dtype=float), np.array(p, dtype=float)
    nonzero = y != 0
    varied = len(y) > 1 and np.ptp(y) > 0 and np.ptp(p) > 0
    expected = {
        "rmse": defined(lambda: sk.root_mean_squared_error(y, p)),
        "mae": defined(lambda: sk.mean_absolute_error(y, p)),
        "mse": defined(lambda: sk.mean_squared_error(y, p)),
        "r2": defined(lambda: sk.r2_score(y, p)),
        "explained_variance": defined(lambda: sk.explained_variance_score(y, p)),
        # ours: the specification's
        "mape": defined(lambda: np.mean(np.abs((y[nonzero] - p[nonzero]) / y[nonzero])) * 100),
        "mape_eps": defined(lambda: sk.mean_absolute_percentage_error(y, p)),
        "median_absolute_error": defined(lambda: sk.median_absolute_error(y, p)),
        "max_error": defined(lambda: sk.max_error(y, p)),
        "pearson_correlation": defined(lambda: np.corrcoef(y, p)[0, 1]) if varied else None,
    }
    return {"task": "regression", "name": name, "actual": y.tolist(), "predicted": p.tolist(), "expected": expected}


def calibration_error(y, s, bins):
    """Guo et al. 2017, over the bins of sklearn.calibration.calibration_curve (uniform)."""
    ids = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], s)
    return sum((ids == b).mean() * abs(y[ids == b].mean() - s[ids == b].mean()) for b in np.unique(ids))


def binary(name, y, s, threshold=0.5, zero_division="zero", bins=10):
    y, s = np.array(y, dtype=int), np.array(s, dtype=float)
    label = (s >= threshold).astype(int)
    division = {"zero_division": ZERO_DIVISION[zero_division]}
    probability = s.min() >= 0 and s.max() <= 1
    expected = {
        "accuracy": defined(lambda: sk.accuracy_score(y, label)),
        "precision": defined(lambda: sk.precision_score(y, label, **division)),
        "recall": defined(lambda: sk.recall_score(y, label, **division)),
        "f1": defined(lambda: sk.f1_score(y, label, **division)),
        "auc": defined(lambda: sk.roc_auc_score(y, s)),
        # ours: undefined without a positive label
        "average_precision": defined(lambda: sk.average_precision_score(y, s)) if y.any() else None,
        "balanced_accuracy": defined(lambda: sk.balanced_accuracy_score(y, label)),
        "mcc": defined(lambda: sk.matthews_corrcoef(y, label)),
        "brier": defined(lambda: np.mean((y - s) ** 2)) if probability else None,
        "log_loss": defined(lambda: sk.log_loss(y, s, labels=[0, 1])) if probability else None,
        "ece": defined(lambda: calibration_error(y, s, bins)) if probability else None,
    }
    if probability and len(set(y)) == 2:
        assert math.isclose(expected["brier"], sk.brier_score_loss(y, s), rel_tol=1e-14)
    return {
        "task": "binary_classification", "name": name, "actual": y.tolist(), "predicted": s.tolist(),
        "threshold": threshold, "zero_division": zero_division, "calibration_bins": bins, "expected": expected,
    }


def multiclass(name, y, rows, zero_division="zero"):
    y, rows = np.array(y, dtype=int), np.array(rows, dtype=float)
    classes = rows.shape[1]
    label = rows.argmax(axis=1)
    division = {"zero_division": ZERO_DIVISION[zero_division]}
    columns = list(range(classes))
    expected = {
        "accuracy": defined(lambda: sk.accuracy_score(y, label)),
        "log_loss": defined(lambda: sk.log_loss(y, rows, labels=columns)) if classes > 1 else 0.0,
        # ours: undefined if a class is absent; otherwise scikit-learn's mean over the columns
        "auc_ovr_macro": defined(
            lambda: np.mean([sk.roc_auc_score((y == c).astype(int), rows[:, c]) for c in columns])
        ),
    }
    if set(y.tolist()) == set(columns) and classes > 2:
        ovr = sk.roc_auc_score(y, rows, multi_class="ovr", average="macro")
        assert math.isclose(expected["auc_ovr_macro"], ovr, rel_tol=1e-13)
    for average in ("macro", "weighted", "micro"):
        options = {"average": average, **division}
        expected[f"precision_{average}"] = defined(lambda o=options: sk.precision_score(y, label, **o))
        expected[f"recall_{average}"] = defined(lambda o=options: sk.recall_score(y, label, **o))
        expected[f"f1_{average}"] = defined(lambda o=options: sk.f1_score(y, label, **o))
    labels = sorted(set(y.tolist()) | set(label.tolist()))
    return {
        "task": "multiclass", "name": name, "actual": y.tolist(), "predicted": rows.ravel().tolist(),
        "classes": classes, "zero_division": zero_division, "expected": expected,
        "labels": labels, "confusion_matrix": sk.confusion_matrix(y, label, labels=labels).tolist(),
    }


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def regression_cases(rng):
    y = rng.normal(3, 2, 80)
    yield regression("noise", y, y + rng.normal(0, 0.5, 80))
    # Short decimals: a JSON reader that is off by a bit in the last place would lose them here.
    far = np.round(64 * (y[:50] + 1e6)) / 64
    yield regression("far from zero", far, far + np.round(64 * rng.normal(0, 1, 50)) / 64)
    yield regression("perfect", y[:20], y[:20])
    yield regression("worse than the mean", y[:21], -y[:21])
    yield regression("biased", [1, 2, 3, 4], [2, 3, 4, 5])
    yield regression("zeros in the target", [0, 1, 0, 4, -2], [0.5, 1.5, 0, 3, -2.5])
    yield regression("only zeros", [0, 0, 0], [1, 0, -1])
    yield regression("constant target, perfect", [2, 2, 2], [2, 2, 2])
    yield regression("constant target, missed", [2, 2, 2], [2, 1, 2])
    yield regression("constant prediction", [1, 2, 3], [2, 2, 2])
    yield regression("one sample", [1.5], [2.0])
    yield regression("one sample, perfect", [1.5], [1.5])
    yield regression("two samples", [1, 3], [2, 2.5])
    yield regression("skewed", rng.lognormal(0, 3, 101), rng.lognormal(0, 3, 101))


def binary_cases(rng):
    y = rng.random(120) < 0.3
    s = np.clip(0.3 * y + rng.normal(0.35, 0.2, 120), 0, 1)
    yield binary("noise", y, s)
    yield binary("threshold", y, s, threshold=0.3)
    yield binary("ties", y, np.round(s, 1), bins=7)
    yield binary("one bin", y[:60], s[:60], bins=1)
    yield binary("all tied", y[:40], np.full(40, 0.5))
    yield binary("perfect", [0, 0, 1, 1], [0, 0.1, 0.9, 1])
    yield binary("reversed", [0, 0, 1, 1], [1, 0.9, 0.1, 0])
    yield binary("rare", rng.random(150) < 0.03, rng.random(150) ** 4)
    yield binary("logits", y[:80], 8 * s[:80] - 4, threshold=0.0)
    for division in ZERO_DIVISION:
        yield binary(f"only negatives, {division}", [0, 0, 0], [0.1, 0.7, 0.2], zero_division=division)
        yield binary(f"only positives, {division}", [1, 1, 1], [0.1, 0.7, 0.2], zero_division=division)
        yield binary(f"none predicted, {division}", [1, 0, 0], [0.1, 0.2, 0.3], zero_division=division)
        yield binary(f"neither, {division}", [0, 0], [0.1, 0.2], zero_division=division)
        yield binary(f"one sample, {division}", [1], [0.8], zero_division=division)


def multiclass_cases(rng):
    y = rng.integers(0, 4, 80)
    rows = softmax(rng.normal(0, 1, (80, 4)) + 1.5 * np.eye(4)[y])
    yield multiclass("noise", y, rows)
    yield multiclass("ties", y[:60], np.round(rows[:60] * 4) / np.round(rows[:60] * 4).sum(1, keepdims=True))
    yield multiclass("uniform", y[:30], np.full((30, 4), 0.25))
    yield multiclass("certain and wrong", [0, 1, 2], [[0, 1, 0], [0, 0, 1], [1, 0, 0]])
    yield multiclass("two columns", y[:50] % 2, softmax(rng.normal(0, 1, (50, 2))))
    yield multiclass("one column", [0, 0], [[1.0], [1.0]])
    skewed = rng.choice(6, 120, p=[0.6, 0.2, 0.1, 0.06, 0.03, 0.01])
    yield multiclass("imbalanced", skewed, softmax(rng.normal(0, 1, (120, 6)) + 2 * np.eye(6)[skewed]))
    for division in ZERO_DIVISION:
        yield multiclass(f"absent class, {division}", np.where(y[:40] == 2, 0, y[:40]), rows[:40], division)
        yield multiclass(f"never predicted, {division}", [0, 1, 2, 1], np.eye(3)[[0, 0, 2, 0]], division)
        yield multiclass(f"one class, all missed, {division}", [0, 0, 0], np.eye(3)[[1, 1, 2]], division)
        yield multiclass(f"one sample, {division}", [2], [[0.2, 0.3, 0.5]], division)


def main():
    rng = np.random.default_rng(2)
    cases = [*regression_cases(rng), *binary_cases(rng), *multiclass_cases(rng)]
    lines = ",\n".join(json.dumps(case, allow_nan=False) for case in cases)
    pathlib.Path(__file__).with_name("metrics.json").write_text(f"[\n{lines}\n]\n")
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
