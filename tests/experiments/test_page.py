"""report.html: its content, its script, and the page in Chromium where that is installed."""

import base64
import gzip
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tf4ctr.experiments import html_file
from tf4ctr.experiments.comparison import collect, rows_of, summarise
from tf4ctr.experiments.page import page, write_page
from tf4ctr.experiments.run_page import write_run_page
from tf4ctr.training.head_colours import head_colours

CURVES = "epoch,val/auc,val/logloss\n1,0.6,0.7\n2,0.7,0.65\n"


@pytest.fixture
def runs(tmp_path):
    """Four runs of two settings; the first has q and an evaluation. A fifth failed, with a tag."""
    for number, (dfm, seed, auc) in enumerate([("wsf", 1, 0.7), ("wsf", 2, 0.8), ("sum", 1, 0.9), ("sum", 2, 0.85)]):
        folder = tmp_path / "sweep" / str(number)
        (folder / ".hydra").mkdir(parents=True)
        (folder / ".hydra" / "overrides.yaml").write_text(f"- dfm={dfm}\n- seed={seed}\n")
        (folder / "config.yaml").write_text(f"seed: {seed}\ndfm:\n  _target_: tf4ctr.{dfm}\nloss:\n  c: 0.7\n")
        metrics = {"test/auc": auc, "test/logloss": 1 - auc, "parameters": 1234, "seconds": 10.0 + number}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "metrics.csv").write_text(CURVES)
    shares = {"epochs": [1, 2], "q": {"fused": [[0.25, 0.75], [0.12341, 0.87659]]}, "weights": {}}
    (tmp_path / "sweep" / "0" / "focus.json").write_text(json.dumps(shares))
    measured = tmp_path / "sweep" / "0" / "evaluation"
    measured.mkdir()
    (measured / "test.json").write_text('{"auc": 0.7, "ece": 0.01, "auc_low": 0.68, "auc_high": 0.72}')
    (measured / "test-reliability.csv").write_text("head,rows,predicted,clicked\nfused,5,0.2,0\nfused,5,0.6,1\n")
    (tmp_path / "sweep" / "4" / ".hydra").mkdir(parents=True)
    (tmp_path / "sweep" / "4" / ".hydra" / "overrides.yaml").write_text("- dfm=vf\n- seed=1\n")
    (tmp_path / "sweep" / "4" / "error.txt").write_text("</script><script>alert(1)</script>")
    return tmp_path / "sweep"


@pytest.fixture
def text(runs, monkeypatch):
    """The page without plotly.js."""
    monkeypatch.setattr(html_file, "packed_plotly", lambda: None)
    jobs = collect([runs])
    return page(runs, jobs.frame, rows_of(summarise(jobs)))


class Loads(HTMLParser):
    """What a page loads from elsewhere, and the text of its scripts by id."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.scripts, self.open = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.open = values.get("id", "code") if tag == "script" else None
        self.loads += [values[name] for name in ("src", "href") if name in values]

    def handle_data(self, data):
        if self.open:
            self.scripts[self.open] = self.scripts.get(self.open, "") + data

    def handle_endtag(self, tag):
        self.open = None


def test_the_page_has_every_run_with_its_numbers(text):
    runs = json.loads(Loads(text).scripts["data"])["runs"]
    assert [run["job"] for run in runs] == ["0", "1", "2", "3", "4"]
    assert [run["metrics"]["test/auc"] for run in runs] == [0.7, 0.8, 0.9, 0.85, None]
    assert [run["setting"] for run in runs] == ["dfm=wsf"] * 2 + ["dfm=sum"] * 2 + ["dfm=vf"]
    assert runs[1]["curves"] == {"epoch": [1, 2], "val/auc": [0.6, 0.7], "val/logloss": [0.7, 0.65]}
    focus = {"epochs": [1, 2], "weights": {}, "q": {"fused": [[0.25, 0.75], [0.1234, 0.8766]]}}
    assert runs[0]["focus"] == {**focus, "colours": head_colours([])}
    assert runs[0]["evaluations"] == {"test": {"auc": [0.7, 0.68, 0.72], "ece": [0.01]}}
    assert runs[0]["calibration"] == {"test": {"fused": {"rows": [5, 5], "predicted": [0.2, 0.6], "clicked": [0, 1]}}}
    assert [runs[1][name] for name in ("focus", "evaluations", "calibration")] == [None, {}, {}]
    # keys that all runs have in common are left out
    assert runs[2]["config"] == {"dfm._target_": "tf4ctr.sum", "loss.c": "0.7"}
    assert runs[4]["config"] == {"dfm._target_": None, "loss.c": None}
    table = re.search("<tbody>.*?</tbody>", text).group()
    assert "<td>dfm=sum</td><td>2</td><td>0.87500 ± 0.03536</td>" in table
    assert "<td>4</td><td>dfm=vf</td><td>&lt;/script&gt;" in text  # with the reason


def test_the_page_loads_nothing_and_runs_no_text_of_a_run(text):
    loads = Loads(text)
    assert loads.loads == ["data:,"]
    assert not re.search(r"@import|url\(", text)
    assert "alert" not in loads.scripts["code"]
    assert "</script><script>alert" not in text


def test_pictures_of_a_search_are_inside(runs):
    jobs = collect([runs])
    (runs / "importance.png").write_bytes(b"\x89PNG")
    text = page(runs, jobs.frame, rows_of(summarise(jobs)))
    assert Loads(text).loads == ["data:,", "data:image/png;base64,iVBORw=="]


def test_the_page_is_written_with_plotly(runs):
    get_plotlyjs = pytest.importorskip("plotly.offline").get_plotlyjs
    jobs = collect([runs])
    path = write_page(runs, jobs.frame, rows_of(summarise(jobs)))
    text = path.read_text()
    assert Loads(text).loads == ["data:,"]
    packed = Loads(text).scripts["plotly"]
    assert len(packed) < 2_500_000
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()


def test_the_datasets_of_the_runs_are_in_the_page_if_they_are_still_there(runs):
    for number, name in enumerate(["shop", "other"]):
        config = f"dataset:\n  name: {name}\n  prepared_dir: {runs}/prepared\n"
        (runs / str(number) / "config.yaml").write_text(config)
    splits = {"train": {"rows": 1234, "click_rate": 0.25, "out_of_vocabulary": {"user": 0.5}, "missing": {"age": 0.1}}}
    manifest = {"dataset": "shop", "splits": splits, "vocabulary_sizes": {"user": 30}}
    jobs = collect([runs])
    assert "The prepared datasets of these runs are not here" in page(runs, jobs.frame, rows_of(summarise(jobs)))
    (runs / "prepared").mkdir()
    (runs / "prepared" / "manifest.json").write_text(json.dumps(manifest))
    text = page(runs, jobs.frame, rows_of(summarise(jobs)))
    assert "<td>train</td><td>1,234</td><td>0.2500</td>" in text
    assert "<td>user</td><td>values</td><td>30</td><td>50.00%</td>" in text
    assert "<td>age</td><td>number</td><td></td><td>10.00%</td>" in text


def test_without_plotly_a_line_says_what_is_missing(runs, monkeypatch, caplog):
    monkeypatch.setattr(html_file, "packed_plotly", lambda: None)
    with caplog.at_level("INFO"):
        assert write_page(runs, collect([runs]).frame, [["setting"]]) is None
    assert "plotly is missing" in caplog.text
    assert not (runs / "report.html").exists()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_sorts_filters_ticks_and_draws(text, tmp_path):
    (tmp_path / "data.json").write_text(Loads(text).scripts["data"])
    scripts = [html_file.HERE / name for name in ("charts.js", "page.js")]
    command = ["node", Path(__file__).with_name("page_check.js"), *scripts, tmp_path / "data.json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    head = ["", "job", "setting", "seed", "test/auc ▼", "test/logloss", "parameters", "seconds", "reason"]
    assert found["titles"] == head
    assert found["first"] == ["2", "3", "1", "0", "4"]  # best first, unknown last
    assert found["settings"] == [[[0.9, 0.85], ["dfm=sum"] * 2], [[0.8, 0.7], ["dfm=wsf"] * 2]]
    assert "0.90000" in found["cells"]
    assert "1,234" in found["cells"]
    assert found["logloss_down"] == ["0", "1", "3", "2", "4"]
    assert found["logloss_up"] == ["2", "3", "1", "0", "4"]
    assert found["job_up"] == ["0", "1", "2", "3", "4"]
    assert found["nothing"] == [[], "0 of 5 runs"]
    assert found["filtered"] == [["2"], "1 of 5 runs", [1]]
    assert found["hidden"] == [True, False]
    assert found["shown"] == [False, True]
    assert found["classes"] == ["ticked", "", "ticked", "", ""]
    names = ["0, dfm=wsf, seed 1", "2, dfm=sum, seed 1"]
    assert found["curves"] == [[name, [1, 2], [0.6, 0.7]] for name in names]
    assert found["logloss_curves"] == [[0.7, 0.65]] * 2
    assert found["metrics"][:3] == [
        ["metric", *names],
        ["test/auc", "0.70000 [0.68000, 0.72000]", "0.90000 (+0.20000)"],
        ["test/logloss", "0.30000", "0.10000 (-0.20000)"],
    ]
    assert found["configs"] == [["key", *names], ["dfm._target_", "tf4ctr.wsf", "tf4ctr.sum"]]
    titles = ["minus dfm=wsf", "test/auc", "test/logloss"]
    assert found["settings_of_two"] == [titles, ["dfm=sum", "+0.20000, 1 seed", "-0.20000, 1 seed"]]
    half = 0.075 * 12.7062  # of +0.20 and +0.05: the standard error is 0.075, t has one degree of freedom
    interval = f"[{0.125 - half:.5f}, +{0.125 + half:.5f}], 2 seeds"
    assert found["settings_of_four"][1][:2] == ["dfm=sum", f"+0.12500 {interval}"]
    assert found["same_colour"]  # of a run in its curve and in its calibration
    assert found["calibration"] == [[[0.2, 0.6], [0, 1], names[0]]]
    assert found["validations"] == 1
    q = f"fused: {names[0]}"
    assert found["q"] == [["after epoch 1", [[q, [0.25, 0.75]]]], ["after epoch 2", [[q, [0.1234, 0.8766]]]]]
    assert found["scatter"][0] == "log"
    assert ["dfm=wsf", [10, 11], [0.7, 0.8]] in [[name, x, y] for name, x, y in found["scatter"][1]]
    assert found["recoloured"]
    check_figures(found["figures"])
    assert found["unticked"] == [True, [""] * 5]


def check_figures(figures):
    """Let plotly check the names and values of everything that was drawn, if it is installed."""
    assert [figure["id"] for figure in figures] == ["scatter", "curves", "q", "reliability"]
    try:
        from plotly.graph_objects import Figure
    except ImportError:
        return
    for figure in figures:
        Figure(data=figure["traces"], layout=figure["layout"])


def test_both_pages_work_in_a_browser(runs):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    pytest.importorskip("plotly")
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("no chromium on this machine")
    jobs = collect([runs])
    path = write_page(runs, jobs.frame, rows_of(summarise(jobs)))
    run_path = write_run_page(runs / "0")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=browser_path)
        tab = browser.new_page()
        errors, requests = [], []
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(path.as_uri())
        tab.wait_for_selector("#scatter .scatterlayer .trace")  # plotly.js is unpacked
        jobs_shown = "[...document.querySelectorAll('#runs tr')].map(row => row.cells[1].textContent)"
        assert tab.evaluate(jobs_shown) == ["2", "3", "1", "0", "4"]
        tab.click("#titles button:text('test/logloss')")
        assert tab.evaluate(jobs_shown) == ["0", "1", "3", "2", "4"]
        tab.check("#runs tr:nth-child(1) input")
        tab.check("#runs tr:nth-child(2) input")
        assert tab.locator("#curves .scatterlayer .trace").count() == 2
        assert tab.locator("#q .scatterlayer .trace").count() == 1
        tab.fill("#filter", "dfm=sum")
        assert tab.evaluate(jobs_shown) == ["3", "2"]
        assert tab.locator("#reliability .scatterlayer .trace").count() == 2  # with the diagonal
        tab.goto(run_path.as_uri())
        tab.wait_for_selector("#reliability .scatterlayer .trace")
        panels = [tab.locator(f"#panel-{number} .scatterlayer .trace").count() for number in range(3)]
        assert panels == [1, 1, 0]  # logloss, AUC; there is no loss of the training
        assert tab.evaluate("document.querySelector('#q').data[0].y") == [0.1234, 0.8766]
        tab.fill("#validation", "0")
        assert tab.evaluate("document.querySelector('#q').data[0].y") == [0.25, 0.75]
        assert tab.inner_text("#epoch") == "after epoch 1"
        assert not tab.is_visible("#config tbody tr")
        tab.fill("#filter", "loss")
        shown = (
            "[...document.querySelectorAll('#config tbody tr')].filter(row => !row.hidden).map(row => row.innerText)"
        )
        assert tab.evaluate(shown) == ["loss.c\t0.7"]
        assert errors == []
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        browser.close()


def test_infinite_and_undefined_numbers_are_null(runs):
    (runs / "1" / "metrics.json").write_text('{"test/auc": NaN, "test/logloss": Infinity}')
    (runs / "1" / "metrics.csv").write_text("epoch,val/auc,val/logloss\n1,nan,inf\n2,0.7,0.65\n")
    jobs = collect([runs])
    content = json.loads(Loads(page(runs, jobs.frame, rows_of(summarise(jobs)))).scripts["data"])
    run = content["runs"][1]
    assert run["curves"] == {"epoch": [1, 2], "val/auc": [None, 0.7], "val/logloss": [None, 0.65]}
    assert [run["metrics"][name] for name in ("test/auc", "test/logloss")] == [None, None]
