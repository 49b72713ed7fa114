"""The commands that README.md and docs/ show can be started. README's example is run."""

import json
import re
import shlex
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from command_checks import faults_of, write_made
from conftest import ROOT, run_script, started_script
from documented_commands import read_page, runner_of

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The yamls that the pages tell the reader to write."""
    folder = tmp_path_factory.mktemp("made") / "conf"
    write_made([page.read_text() for page in PAGES], folder)
    return folder


def faults(text, made, file="page.md"):
    """What is wrong with the commands of a page, one text for each fault."""
    commands, found = read_page(text, file)
    return [str(fault) for fault in found + [fault for command in commands for fault in faults_of(command, made)]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_can_be_started(page, made):
    found = faults(page.read_text(), made, page.relative_to(ROOT).as_posix())
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("python src/train.py loss.alhpa=1", "loss.alhpa: unknown option, did you mean 'alpha'"),
        ("python src/train.py backbone=depfm", "backbone=depfm: unknown option, did you mean 'deepfm'"),
        ("python src/train.py lr=1e-4", "lr=1e-4: write optimizer.lr=1e-4"),
        ("python src/train.py backbone=lr", "one encoder"),
        ("python src/train.py trainer.precision=16-mixed", "trainer.precision is 16-mixed"),
        ("python src/train.py seed=1,2", "To sweep over it, add --multirun"),
        ("python src/train.py seed=1 -m optimizer.lr=1", "unrecognized arguments"),
        ("python src/train.py -m backbone=dnn,depfm framework=plain", "backbone=depfm: unknown option"),
        ("python src/train.py -m 'optimizer.rl=tag(log,interval(1e-4,1e-2))'", "optimizer.rl: unknown option"),
        ("python src/train.py -m optimizer.lr=interval(1e-4,1e-2)", "needs quotes"),
        ("python src/train.py -m sweep.resume=FOLDER seed=1", "sweep.resume= stands alone"),
        ("python src/train.py dataset=unheard_of", "dataset=unheard_of: unknown option"),
        ("python src/train.py --help los", "--help los: there is no such group"),
        ("python src/train.py dataset=frappe ...", "a command is shown whole"),
        ("python src/train.py dataset.raw_dir='data", "the shell cannot read it: No closing quotation"),
        ("python src/train.py trainer=gpu", "needs a GPU: mark the block"),
        ("python src/trainn.py", "src/trainn.py: there is no such file"),
        ("python src/prepare.py dataset=frappe download=true", "needs a download: mark the block"),
        ("python src/evaluate.py split=test", "run= is missing"),
        ("python src/evaluate.py run=FOLDER split=tset", "split=tset: did you mean 'test'"),
        ("python src/export.py run=FOLDER format=onx", "format=onx: did you mean 'onnx'"),
        ("python src/predict.py run=FOLDER input=new.csv", "output= is missing"),
        ("python src/report.py rans=FOLDER", "rans: unknown option, did you mean 'runs'"),
        ("python src/replay.py dataset=frappe by=time every=fortnight", "every is 'fortnight'"),
        ("python src/describe.py input=clicks.csv name=shop labell=click", "did you mean 'label'"),
        ("python -m no_such_module", "there is no such module"),
        ("python -c 'import'", "python -c: invalid syntax"),
        ("cd FOLDER && OMP_NUM_THREADS=1 python src/train.py lr=1 > log.txt", "lr=1: write optimizer.lr=1"),
        ("torchrun --nproc_per_node=2 src/train.py loss.alhpa=1 trainer=ddp_cpu", "did you mean 'alpha'"),
        ("torchrun --no_such=2 src/train.py", "torchrun: "),
        ("srun python src/train.py trainer=slurm", "srun needs a cluster: mark the block"),
        ("make tarin", "make tarin: there is no such target, did you mean 'train'"),
        ("make train ARG=seed=1", "the Makefile has no such variable"),
        ('make train ARGS="sed=1"', "sed: unknown option, did you mean 'seed'"),
        ("make test ARGS=tests/test_nothing.py", "there is no tests/test_nothing.py"),
        ("pip install -e .", "needs a download: mark the block"),
        ("curl http://localhost:8000/predct", "the server has no such path, did you mean '/predict'"),
        ("curl http://localhost:8000/predict -d '{rows: []}'", "this is no JSON"),
        ("curl https://example.com/log.csv", "needs a download: mark the block"),
        ("docker run shop", "docker is not checked: mark the block"),
        ("$ python src/train.py", "$ is not checked"),
    ],
)
def test_a_wrong_command_is_reported_with_file_line_and_reason(command, message, made):
    (fault,) = faults(f"A page.\n\n```sh\npython src/train.py\n{command}\n```\n", made)
    where, reason = fault.split("\n    ", 1)
    assert where == f"page.md:5: {command}"
    assert message in reason


@pytest.mark.parametrize(
    ("mark", "command", "message"),
    [
        ("needs a GPU", "python src/train.py trainer=gpu", None),
        ("a download", "pip install -e '.[report]'", None),
        ("FILES of one's own", "docker run shop", None),
        ("needs several GPUs", "torchrun --nproc_per_node=8 src/train.py trainer=ddp", None),
        ("files; tests/test_documented_commands.py runs it", "no_such_program", None),
        ("files; tests/test_nothing.py runs it", "ls", "no test that exists"),
        ("it is slow", "ls", "no reason (GPU, download,"),
        ("a download", "pip install -e '.[reports]'", "extra reports: there is no such extra, did you mean 'report'"),
        ("needs a GPU", "python src/train.py trainer=gpu loss.alhpa=1", "did you mean 'alpha'"),
        ("a cluster", "srun -n 8 python src/train.py trainer=slurm loss.alhpa=1", "did you mean 'alpha'"),
        ("a cluster", "srun -n 8", "no python command"),
    ],
)
def test_a_marked_block_is_checked_as_far_as_the_project_knows_it(mark, command, message, made):
    found = faults(f"<!-- not run: {mark} -->\n```sh\n{command}\n```\n", made)
    assert not found if message is None else message in found[0]


def test_commands_cannot_hide_from_the_checks(made):
    assert "write ```sh" in faults("```bash\npython src/train.py\n```\n", made)[0]
    assert "outside of a ```sh block" in faults("Start it:\n\n    python src/train.py loss=tf\n", made)[0]
    script = "```bash\n#!/bin/bash\n#SBATCH --nodes=2\nsrun python src/train.py trainer=slurm\n```\n"
    assert "page.md:4" in faults(script, made)[0]
    tab = '=== "pip"\n\n    ```sh\n    python src/train.py sed=1\n    ```\n'
    assert "page.md:4" in faults(tab, made)[0]


def test_what_a_page_shows_is_read_as_the_shell_reads_it(made):
    """Comments, continued lines, variables, a text that a command reads, and other blocks."""
    text = """
```text
python src/train.py output=of a program
```
```sh
# a comment
RUN="python src/train.py -m dataset=frappe"
$RUN seed=1,2 \\
    backbone=dnn,dcnv2 framework=plain   # one run for each
python - <<END > new.csv
no, program
END
python -c 'import tf4ctr
print(tf4ctr)' > FILE; python src/train.py dataset=NAME
python src/train.py dataset=shop && python src/report.py runs=A,B out=FOLDER
```
"""
    commands, found = read_page(text, "page.md")
    assert not found
    assert [command.line for command in commands] == [8, 10, 13, 15]
    assert commands[0].text.startswith("python src/train.py -m dataset=frappe seed=1,2 backbone=dnn")
    assert not [fault for command in commands for fault in faults_of(command, made)]


def test_the_links_of_the_readme_lead_somewhere():
    missing = []
    for target in re.findall(r"\]\(([^)\s]+)\)", README.read_text()):
        name, _, heading = target.partition("#")
        if name.startswith(("http:", "https:")):
            continue
        path = README.parent / name if name else README
        if not path.exists() or (heading and heading not in headings(path)):
            missing.append(target)
    assert not missing, f"README.md links to {', '.join(missing)}"


def headings(page: Path) -> list[str]:
    """The names that a page's headings have in links."""
    titles = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w\s-]", "", title).strip().lower().replace(" ", "-") for title in titles]


def test_the_figures_of_the_readme_are_those_of_the_results():
    (section,) = re.findall(r"^## Results\n(.*?)^## ", README.read_text(), re.MULTILINE | re.DOTALL)
    results = "".join((ROOT / "docs" / f"{page}.md").read_text() for page in ("results", "leaderboard"))
    figures = re.findall(r"\d\.\d+(?: ± \d\.\d+)?", section)
    assert len(figures) > 12
    assert not [figure for figure in figures if figure not in results]


@pytest.fixture
def shop(tmp_path):
    """A folder with the files of README's example."""
    rng, rows = np.random.default_rng(0), 2000
    log = pl.DataFrame(
        {
            "user": [f"u{number}" for number in rng.integers(0, 50, rows)],
            "product": [f"p{number}" for number in rng.integers(0, 80, rows)],
            "price": rng.integers(100, 9900, rows) / 100,
            "hour": rng.integers(0, 24, rows),
            "click": rng.integers(0, 2, rows),
        }
    )
    log.write_csv(tmp_path / "clicks.csv")
    log.drop("click").head(100).write_csv(tmp_path / "new.csv")
    return tmp_path


def test_the_readmes_example_runs(shop):
    """describe, train, predict, export, serve and curl, each as shown, in a folder of their own."""
    commands, _ = read_page(README.read_text(), "README.md")
    wanted = Path(__file__).relative_to(ROOT).as_posix()
    shown = [shlex.split(command.text, comments=True) for command in commands if runner_of(command.reason) == wanted]
    header = next(line for line in README.read_text().splitlines() if line.endswith(",click"))
    assert header == (shop / "clicks.csv").read_text().splitlines()[0]
    *scripts, (python, serve, *export), (curl, url, *request) = shown[1:]
    assert (shown[0][0], python, serve, curl) == ("source", "python", "src/serve.py", "curl")
    aside = {
        "describe.py": [f"output={shop}/conf/dataset/shop.yaml"],
        "train.py": [
            *(f"hydra.searchpath=[file://{shop}/conf]", f"dataset.prepared_dir={shop}/prepared"),
            *(f"hydra.run.dir={shop}/outputs/DATE/RUN", "trainer=smoke", "logger=none"),
        ],
    }
    for _, path, *arguments in scripts:
        name = path.removeprefix("src/")
        result = run_script(name, *arguments, *aside.get(name, []), cwd=shop)
        assert result.returncode == 0, f"{name}: {result.stdout}{result.stderr}"
    scores = pl.read_csv(shop / "scores.csv")
    assert scores.columns == ["user", "product", "price", "hour", "p"]
    assert len(scores) == 100
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with started_script("serve.py", *export, f"port={port}", cwd=shop) as (process, outputs):
        assert ":8000/predict" in url
        answer = posted(url.replace(":8000", f":{port}"), request, process, outputs)
    (p,) = answer["p"]
    assert 0 < p < 1


def posted(url, request, process, outputs):
    """The answer to a request in curl's options; the server may still be starting."""
    options = dict(zip(request[::2], request[1::2], strict=True))
    headers = dict([options["-H"].split(": ")])
    for _ in range(1200):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, options["-d"].encode(), headers)) as response:
                return json.load(response)
        except urllib.error.URLError as error:
            if isinstance(error, urllib.error.HTTPError) or not process.is_alive():
                raise AssertionError("".join(path.read_text() for path in outputs)) from error
            time.sleep(0.1)
    raise AssertionError(f"no answer from {url}")
