"""Writes features.json: what scikit-learn and pandas say of small inputs. Run with scikit-learn 1.9, pandas, numpy."""

import json
import warnings

import numpy as np
import pandas as pd
from sklearn.feature_extraction import FeatureHasher
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold, TimeSeriesSplit
from sklearn.preprocessing import (
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

warnings.filterwarnings("ignore")
random = np.random.default_rng(7)


def column(values):
    return np.asarray(values, dtype=float).reshape(-1, 1)


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else float(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    return value


def scalings():
    train = np.round(random.lognormal(1.0, 1.2, 40), 3)
    train[[3, 9, 17]] = np.nan
    train[[5, 6, 7, 8]] = 2.5
    there = train[~np.isnan(train)]
    points = np.concatenate([there[:12], [2.5, -3.0, 1e4, there.min(), there.max(), 4.4]])
    scalers = {
        "standard": StandardScaler(),
        "min_max": MinMaxScaler(),
        "robust": RobustScaler(),
        "quantile": QuantileTransformer(n_quantiles=11, subsample=None),
        "quantile_normal": QuantileTransformer(n_quantiles=1000, output_distribution="normal", subsample=None),
    }
    scaled = {name: scaler.fit(column(there)).transform(column(points)).ravel() for name, scaler in scalers.items()}
    first, third = np.quantile(there, [0.25, 0.75])
    return {
        "train": train,
        "points": points,
        "scaled": scaled,
        "impute": {
            name: SimpleImputer(strategy=strategy).fit(column(train)).statistics_[0]
            for name, strategy in [("mean", "mean"), ("median", "median"), ("mode", "most_frequent")]
        },
        "bounds": {
            "quantile": np.quantile(there, [0.05, 0.95]),
            "iqr": [first - 1.5 * (third - first), third + 1.5 * (third - first)],
        },
    }


def categories():
    values = list(random.choice(["a", "b", "c", "d", "e", "ü"], 60, p=[0.35, 0.25, 0.2, 0.1, 0.06, 0.04]))
    seen = column_of_texts(values)
    one_hot = OneHotEncoder(min_frequency=5, handle_unknown="infrequent_if_exist", sparse_output=False).fit(seen)
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(seen)
    tests = column_of_texts(["a", "e", "ü", "new"])
    infrequent = set(one_hot.infrequent_categories_[0])
    return {
        "train": values,
        "kept": [str(c) for c in one_hot.categories_[0] if c not in infrequent],
        "tests": [str(t[0]) for t in tests],
        "ordinal": ordinal.transform(tests).ravel(),
        "hashed": FeatureHasher(n_features=8, input_type="string").transform([[t[0]] for t in tests]).toarray(),
        "frequency": pd.Series(values).value_counts(normalize=True).reindex(["a", "e", "ü", "new"]).fillna(0).values,
    }


def column_of_texts(values):
    return np.asarray(values, dtype=object).reshape(-1, 1)


def target_encodings():
    cities = list(random.choice(["Bergen", "Oslo", "Rome", "Vaduz"], 50, p=[0.4, 0.3, 0.25, 0.05]))
    found = {"train": cities, "cases": []}
    for kind in ["continuous", "binary", "multiclass"]:
        base = random.normal(0.0, 1.0, 50) + np.asarray([len(c) for c in cities]) / 3.0
        if kind == "continuous":
            targets = np.round(base, 3)
        elif kind == "binary":
            targets = (base > 1.6).astype(int)
        else:
            targets = np.digitize(base, [1.0, 2.0])
        for smooth in ["auto", 3.0]:
            encoder = TargetEncoder(smooth=smooth, cv=4, shuffle=False, target_type=kind)
            out_of_fold = encoder.fit_transform(column_of_texts(cities), targets)
            splitter = KFold(4) if kind == "continuous" else StratifiedKFold(4)
            folds = np.zeros(50, dtype=int)
            for fold, (_, test) in enumerate(splitter.split(cities, targets)):
                folds[test] = fold
            found["cases"].append(
                {
                    "kind": kind,
                    "smoothing": None if smooth == "auto" else smooth,
                    "targets": targets,
                    "folds": folds,
                    "categories": [str(c) for c in encoder.categories_[0]],
                    "encodings": encoder.encodings_,
                    "prior": np.atleast_1d(encoder.target_mean_),
                    "out_of_fold": out_of_fold.T,
                }
            )
    return found


def polynomials():
    rows = np.round(random.normal(0.0, 2.0, (4, 3)), 2)
    cases = []
    for degree, interaction_only in [(2, False), (3, False), (3, True)]:
        poly = PolynomialFeatures(degree, interaction_only=interaction_only, include_bias=False).fit(rows)
        cases.append(
            {
                "degree": degree,
                "interaction_only": interaction_only,
                "names": list(poly.get_feature_names_out(["a", "b", "c"]))[3:],
                "values": poly.transform(rows)[:, 3:].T,
            }
        )
    return {"rows": rows.T, "cases": cases}


def windows():
    count = 60
    frame = pd.DataFrame(
        {
            "group": random.choice(["x", "y", "z"], count),
            "day": random.permutation(count),
            "value": np.round(random.normal(5.0, 3.0, count), 2),
        }
    )
    frame.loc[[4, 11, 30], "value"] = np.nan
    frame["date"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame["day"], unit="D")
    ordered = frame.sort_values("day")
    out = {name: frame[name] for name in ["group", "value"]}
    out["date"] = frame["date"].dt.strftime("%Y-%m-%d")
    for how in ["mean", "sum", "min", "max", "std", "count"]:
        of = (lambda window: window.std(ddof=0)) if how == "std" else (lambda window, how=how: getattr(window, how)())
        by_rows = lambda s: of(s.shift(1).rolling(7, min_periods=0 if how == "count" else 1))
        with_current = lambda s: of(s.rolling(7, min_periods=0 if how == "count" else 1))
        out[f"rows_{how}"] = ordered.groupby("group")["value"].transform(by_rows).sort_index()
        out[f"current_{how}"] = ordered.groupby("group")["value"].transform(with_current).sort_index()
        days = []
        for _, part in ordered.groupby("group"):
            series = part.set_index("date")["value"]
            values = of(series.rolling("10D", closed="left", min_periods=0 if how == "count" else 1))
            days.append(pd.Series(values.values, index=part.index))
        out[f"days_{how}"] = pd.concat(days).sort_index()
    for lag in [1, 3]:
        out[f"lag_{lag}"] = ordered.groupby("group")["value"].shift(lag).sort_index()
    for how in ["mean", "sum", "min", "max", "count"]:
        out[f"group_{how}"] = frame.groupby("group")["value"].transform(how)
    return {name: [None if isinstance(v, float) and np.isnan(v) else v for v in s] for name, s in out.items()}


def dates():
    texts = ["2024-02-29T23:59:59Z", "1999-12-31T00:00:00Z", "2024-06-01T12:30:00Z", "1960-03-01T05:00:00Z"]
    at = pd.to_datetime(pd.Series(texts), utc=True)
    reference = pd.Timestamp("2000-01-01", tz="UTC")
    return {
        "texts": texts,
        "year": at.dt.year,
        "month": at.dt.month,
        "day": at.dt.day,
        "weekday": at.dt.dayofweek,
        "hour": at.dt.hour,
        "is_weekend": (at.dt.dayofweek >= 5).astype(int),
        "days_since": (at - reference).dt.total_seconds() / 86400,
        "hour_sin": np.sin(2 * np.pi * at.dt.hour / 24),
        "hour_cos": np.cos(2 * np.pi * at.dt.hour / 24),
    }


def folds_of(splitter, count, *arguments):
    folds = np.full(count, -1)
    for fold, (_, test) in enumerate(splitter.split(np.zeros(count), *arguments)):
        folds[test] = fold
    return folds


def splits():
    classes = random.choice([0, 1, 2], 53, p=[0.6, 0.3, 0.1])
    groups = random.choice(range(14), 53)
    counts = lambda folds, k: [[int(((folds == f) & (classes == c)).sum()) for c in range(3)] for f in range(k)]
    group_folds = folds_of(GroupKFold(4), 53, classes, groups)
    found = {
        "classes": classes,
        "groups": groups,
        "random_sizes": [len(test) for _, test in KFold(6).split(np.zeros(53))],
        "stratified_counts": counts(folds_of(StratifiedKFold(5), 53, classes), 5),
        "group_sizes": sorted(int((group_folds == f).sum()) for f in range(4)),
        "stratified_group_folds": folds_of(StratifiedGroupKFold(4), 53, classes, groups),
        "time": [
            {"train": train, "test": test} for train, test in TimeSeriesSplit(4, gap=2).split(np.zeros(53))
        ],
    }
    return found


golden = {
    "scalings": scalings(),
    "categories": categories(),
    "target": target_encodings(),
    "polynomials": polynomials(),
    "windows": windows(),
    "dates": dates(),
    "splits": splits(),
}
golden = plain({k: ({a: list(b) if isinstance(b, pd.Series) else b for a, b in v.items()}) for k, v in golden.items()})
sections = [f"{json.dumps(name)}: {json.dumps(section, ensure_ascii=False)}" for name, section in golden.items()]
with open("features.json", "w") as file:
    file.write("{\n" + ",\n".join(sections) + "\n}\n")
