"""The peer of prepare.rs: the same steps as a Python team writes them with pandas. Prints the seconds they took."""

import sys
import time

import numpy as np
import pandas as pd

file, out = sys.argv[1:]
begun = time.perf_counter()

table = pd.read_csv(file)
counts = ["impressions", "clicks", "spent", "reach", "video_views", "conversions"]
assert table["ad_id"].is_unique
assert not (table[counts] < 0).any().any()
assert not table[["conversions"]].isna().any().any()

order = np.random.default_rng(42).permutation(len(table))
test = int(len(table) * 0.2)
val = int((len(table) - test) * 0.2)
parts = {"test": order[:test], "val": order[test : test + val], "train": order[test + val :]}

target = table.pop("conversions").to_numpy(np.float32)
ids = table.pop("ad_id")
numbers = table.select_dtypes("number").columns
texts = [name for name in table.columns if name not in numbers]
train = table.iloc[parts["train"]]
median = train[numbers].median()
mean = train[numbers].fillna(median).mean()
std = train[numbers].fillna(median).std(ddof=0)
categories = {name: sorted(train[name].dropna().unique()) for name in texts}

for name, rows in parts.items():
    part = table.iloc[rows]
    scaled = ((part[numbers].fillna(median) - mean) / std).astype(np.float32)
    encoded = [scaled, part["frequency"].isna().astype(np.float32).rename("frequency_missing")]
    for column in texts:
        kind = pd.Categorical(part[column], categories=categories[column])
        encoded.append(pd.get_dummies(kind, prefix=column, dtype=np.float32).set_index(part.index))
    features = pd.concat(encoded, axis=1)
    features["target"] = target[rows]
    features["id"] = ids.iloc[rows]
    features.reset_index(drop=True).to_feather(f"{out}/{name}.feather")

print(time.perf_counter() - begun)
