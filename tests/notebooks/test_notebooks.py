import copy
import json
import re

import nbformat
import pytest
from nbclient import NotebookClient

from conftest import ROOT

LARGEST = 200_000  # bytes of a notebook: its pictures are small
PATH = re.compile(r"(?<![\w.])(/(home|root|tmp|work|Users|var|mnt|opt)/|[A-Z]:\\)")


def kinds(cells):
    """What each cell shows: the kinds of its outputs."""
    return [[sorted(output.get("data", {output.get("name"): None})) for output in cell.outputs] for cell in cells]


def without_pictures(output):
    return {**output, "data": {kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"}}


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs_and_is_kept_with_its_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    kept = copy.deepcopy(code)
    assert [cell.execution_count for cell in kept] == list(range(1, len(kept) + 1))
    assert any("image/png" in output.get("data", {}) for cell in kept for output in cell.outputs)
    assert path.stat().st_size <= LARGEST
    assert not PATH.search(json.dumps([without_pictures(output) for cell in kept for output in cell.outputs]))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(path.parent)}}).execute()
    assert kinds(code) == kinds(kept)  # else it was changed and not run again: make notebooks
