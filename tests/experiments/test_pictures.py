from itertools import product

import polars as pl
import pytest

from tf4ctr.experiments.pictures import draw_curves, draw_grid

PNG = b"\x89PNG"


@pytest.fixture
def grid():
    """Four jobs: two ssem, two dfm."""
    rows = [
        {"job": str(number), "setting": f"ssem={ssem} dfm={dfm}", "ssem": ssem, "dfm": dfm, "test/auc": number / 10}
        for number, (ssem, dfm) in enumerate(product(("ser", "gm"), ("wsf", "sum")))
    ]
    return pl.DataFrame(rows)


def test_curves_are_drawn(tmp_path, grid):
    for job in grid["job"]:
        (tmp_path / job).mkdir()
        (tmp_path / job / "metrics.csv").write_text("epoch,val/auc\n1,0.6\n2,0.7\n")
    draw_curves(tmp_path, grid, grid["setting"].to_list())
    assert (tmp_path / "curves.png").read_bytes().startswith(PNG)


def test_without_a_metrics_csv_no_curves_are_drawn(tmp_path, grid):
    draw_curves(tmp_path, grid, grid["setting"].to_list())
    assert not (tmp_path / "curves.png").exists()


def test_a_grid_of_two_overrides_is_drawn(tmp_path, grid):
    draw_grid(tmp_path, grid, ["ssem", "dfm"])
    assert (tmp_path / "grid.png").read_bytes().startswith(PNG)


def test_an_override_that_only_untrained_jobs_have_does_not_matter(tmp_path, grid):
    draw_grid(tmp_path, grid.with_columns(dry_run=pl.lit(None)), ["dry_run", "ssem", "dfm"])
    assert (tmp_path / "grid.png").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda grid: grid.head(3),  # one pair was not trained
        lambda grid: grid.filter(ssem="gm"),  # one override
        lambda grid: grid.with_columns(dfm=pl.col("dfm").replace("sum", None)),  # a default without a name
        lambda grid: grid.with_columns(pl.lit(None).alias("test/auc")),
        lambda grid: grid.drop("test/auc"),
        lambda grid: grid.clear(),
    ],
)
def test_other_sweeps_have_no_grid(tmp_path, grid, change):
    draw_grid(tmp_path, change(grid), ["ssem", "dfm"])
    assert not (tmp_path / "grid.png").exists()
