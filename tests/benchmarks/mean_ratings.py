"""What is easy on MovieLens 100K: a logistic regression on the user's and the film's mean rating.

python tests/benchmarks/mean_ratings.py FOLDER   (with u.data; the split is that of
conf/dataset/movielens_100k.yaml)
"""

import sys
from pathlib import Path

import polars as pl
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, TargetEncoder

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from tf4ctr.metrics import grouped_auc

SHARES = (0.8, 0.9)  # where validation and test begin, in the order of time
PAIR = ["user", "item"]


def splits(path: Path) -> dict[str, pl.DataFrame]:
    """The ratings of u.data by split; ratings of one moment stay together."""
    names = ["user", "item", "rating", "time"]
    rows = pl.read_csv(path, separator="\t", has_header=False, new_columns=names)
    ordered = rows["time"].sort()
    valid, test = (ordered[int(share * len(rows))] for share in SHARES)
    return {
        "train": rows.filter(pl.col("time") < valid),
        "valid": rows.filter(pl.col("time").is_between(valid, test, closed="left")),
        "test": rows.filter(pl.col("time") >= test),
    }


def fit(train: pl.DataFrame) -> tuple[TargetEncoder, LogisticRegression]:
    """Mean ratings (of other folds, in training) and the regression on them."""
    encoder = TargetEncoder(target_type="continuous", cv=KFold(5, shuffle=True, random_state=0))
    means = encoder.fit_transform(train[PAIR].to_numpy(), train["rating"].to_numpy())
    return encoder, make_pipeline(StandardScaler(), LogisticRegression()).fit(means, train["rating"] >= 4)


def main() -> None:
    """Print rows, AUC, gAUC and logloss of each split that was not trained on."""
    rows = splits(Path(sys.argv[1]) / "u.data")
    encoder, regression = fit(rows["train"])
    for name in ("valid", "test"):
        label = (rows[name]["rating"] >= 4).to_numpy()
        p = regression.predict_proba(encoder.transform(rows[name][PAIR].to_numpy()))[:, 1]
        by_user = float(
            grouped_auc(torch.from_numpy(p), torch.from_numpy(label).float(), rows[name]["user"].to_torch())
        )
        print(
            f"{name}: {len(label):,} rows, AUC {roc_auc_score(label, p):.5f}, gAUC {by_user:.5f}, "
            f"logloss {log_loss(label, p):.5f}"
        )


if __name__ == "__main__":
    main()
