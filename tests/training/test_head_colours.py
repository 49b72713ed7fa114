import numpy as np
import polars as pl
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from tf4ctr.inference.attention import draw_attention
from tf4ctr.inference.evaluation import Scores, draw_reliability, reliability
from tf4ctr.inference.roc import draw_roc
from tf4ctr.training.curves import draw_curves
from tf4ctr.training.focus import BINS, draw_focus, draw_gates
from tf4ctr.training.head_colours import head_colours

HEADS = ["fused", "simple", "middle", "other", "complex"]
BACKGROUNDS = ("#ffffff", "#17191c")  # the second one is --back of page.css


def luminance(colour):
    """The relative luminance of WCAG 2.1, from 0 to 1."""
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_each_head_has_one_colour_that_is_legible_in_light_and_dark():
    colours = head_colours(HEADS)
    assert len(set(colours.values())) == 5
    assert head_colours(reversed(HEADS)) == colours
    assert {head: head_colours([])[head] for head in ("fused", "simple", "complex")}.items() <= colours.items()
    for colour in head_colours("abcdefg").values():
        assert min(contrast(colour, background) for background in BACKGROUNDS) >= 3
    assert len(head_colours(map(str, range(20)))) == 23


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """All pictures of a run with five heads, by name."""
    saved = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: saved.update({path.stem: figure}))
    metrics = ["train/loss", "train/bce", *(f"train/tf_{head}" for head in HEADS[1:]), "val/auc", "val/logloss"]
    metrics += [f"val/{head}/{name}" for head in HEADS[1:] for name in ("auc", "logloss")]
    rows = {"epoch": [1, 2], "lr": [1e-3, 1e-4], **{name: [0.6, 0.5] for name in sorted(metrics)}}
    pl.DataFrame(rows).write_csv(tmp_path / "metrics.csv")
    draw_curves(tmp_path)
    q, weights = {head: [[1 / BINS] * BINS] * 2 for head in HEADS}, {head: [0.2, 0.3] for head in HEADS[1:]}
    draw_focus([1, 2], q, weights, tmp_path / "focus.png")
    draw_gates(pl.DataFrame({"field": ["a"], "value": ["x"], "rows": [3], "simple": [0.4]}), tmp_path / "gates.png")
    label = torch.tensor([0.0, 1.0, 1.0, 0.0])
    scores = Scores({head: torch.randn(4).double() for head in HEADS}, label, None, torch.zeros(4, 1))
    draw_roc(scores, tmp_path / "roc.png")
    draw_reliability(reliability(scores), tmp_path / "reliability.png")
    points = np.ones((2, 3))
    # the encoder `middle` reads no table
    draw_attention(
        {"h": {head: points for head in HEADS if head not in ("fused", "middle")}}, HEADS, tmp_path / "a.png"
    )
    return saved


def test_every_picture_draws_a_head_in_its_colour(figures):
    colours = head_colours(HEADS)
    known = {head: head for head in HEADS} | {"train/bce": "fused", "val/auc": "fused", "val/logloss": "fused"}
    known |= {f"train/tf_{head}": head for head in HEADS}
    known |= {f"val/{head}/{name}": head for head in HEADS for name in ("auc", "logloss")}
    drawn = {name: set() for name in figures}
    for name, figure in figures.items():
        for line in (line for axis in figure.axes for line in axis.lines if line.get_label() in known):
            head = known[line.get_label()]
            drawn[name].add(head)
            assert to_hex(line.get_color()) == colours[head], (name, line.get_label())
    expected = {name: set(HEADS) for name in ("curves", "roc", "reliability")}
    assert drawn == expected | {"focus": {*HEADS[1:]}, "a": {"simple", "other", "complex"}, "gates": set()}
    for axis, head in zip(figures["focus"].axes, HEADS, strict=False):
        assert axis.images[0].get_cmap()(0.5)[:3] == pytest.approx(to_rgb(colours[head]), abs=0.01)
    assert to_hex(figures["gates"].axes[0].collections[0].get_facecolor()[0]) == colours["simple"]


def test_no_legend_covers_a_picture(figures):
    for name, figure in figures.items():
        FigureCanvasAgg(figure).draw()  # places everything
        own = [axis.get_legend() for axis in figure.axes]
        for legend in filter(None, [*figure.legends, *own]):
            frame = legend.get_window_extent()
            assert not any(frame.overlaps(axis.get_window_extent()) for axis in figure.axes), name
