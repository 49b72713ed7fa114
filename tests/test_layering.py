"""The wings of src/: which module may import which, and no import cycles."""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from conftest import ROOT

SHARED = {"tf4ctr.errors", "tf4ctr.files", "tf4ctr.metrics", "tf4ctr.reporting"}
DATA, MODELS, TRAINING, ASSEMBLY = "tf4ctr.data", "tf4ctr.models", "tf4ctr.training", "tf4ctr.assembly"
INFERENCE, EXPERIMENTS, CLI, VERSION = "tf4ctr.inference", "tf4ctr.experiments", "tf4ctr.cli", "tf4ctr"
API, CHECKS = "tf4ctr.api", "tf4ctr.config_checks"
# per wing: the wings and modules that it may import; "tf4ctr" is its __init__.py, with
# __version__; it finds the names of the API without an import statement
ALLOWED = {
    VERSION: set(),
    "tf4ctr.errors": set(),
    "tf4ctr.files": {"tf4ctr.errors"},
    "tf4ctr.metrics": {"tf4ctr.errors"},
    "tf4ctr.ranks": {"tf4ctr.errors"},
    "tf4ctr.reporting": {"tf4ctr.errors", "tf4ctr.files"},
    DATA: {DATA, "tf4ctr.errors", "tf4ctr.files", "tf4ctr.metrics"},
    MODELS: {MODELS, "tf4ctr.data.schema", "tf4ctr.errors"},
    TRAINING: {TRAINING, MODELS, DATA, VERSION, *SHARED},
    ASSEMBLY: {TRAINING, MODELS, DATA, *SHARED},
    CHECKS: {ASSEMBLY, TRAINING, MODELS, DATA, *SHARED},
    INFERENCE: {INFERENCE, ASSEMBLY, TRAINING, MODELS, DATA, VERSION, *SHARED},
    EXPERIMENTS: {EXPERIMENTS, TRAINING, MODELS, DATA, VERSION, *SHARED},
    CLI: {EXPERIMENTS, "tf4ctr.ranks", "tf4ctr.errors", "tf4ctr.files", "tf4ctr.reporting"},
    API: {CLI, INFERENCE, EXPERIMENTS, ASSEMBLY, DATA, *SHARED},
}
# other packages that a wing must not import
FORBIDDEN = {MODELS: {"lightning", "hydra", "omegaconf", "polars"}}


def sources() -> dict[str, str]:
    """The text of every module in src/, by its name; a package's `__init__.py` has its name."""
    folder = ROOT / "src"
    names = {path: path.relative_to(folder).with_suffix("").parts for path in sorted(folder.rglob("*.py"))}
    return {".".join(parts).removesuffix(".__init__"): path.read_text() for path, parts in names.items()}


def imports(text: str, modules: Mapping[str, str]) -> Iterator[str]:
    """All modules that a module imports, also inside functions.

    `from a import b` imports the module a.b if `modules` contains it, else the module a.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                yield submodule if submodule in modules else module


def wing_of(name: str) -> str:
    """The wing of a module of tf4ctr: `tf4ctr.data` for `tf4ctr.data.schema`."""
    return ".".join(name.split(".")[:2])


def may_import(name: str, imported: str, modules: Mapping[str, str]) -> bool:
    """Whether the rules allow that the module `name` imports the module `imported`."""
    root = imported.split(".")[0]
    if root == "tf4ctr":
        is_entry_point = name.split(".")[0] != "tf4ctr"
        return is_entry_point or bool({imported, wing_of(imported)} & ALLOWED[wing_of(name)])
    is_ours = imported.startswith(".") or imported in modules  # relative, or an entry point
    return not is_ours and root not in FORBIDDEN.get(wing_of(name), set())


def violations(modules: Mapping[str, str]) -> list[str]:
    """All imports that break the rules, and all modules of tf4ctr that are in no wing."""
    strays = [name for name in modules if name.split(".")[0] == "tf4ctr" and wing_of(name) not in ALLOWED]
    return [f"{name} is in no wing" for name in strays] + [
        f"{name} imports {imported}"
        for name, text in modules.items()
        if name not in strays
        for imported in sorted(set(imports(text, modules)))
        if not may_import(name, imported, modules)
    ]


def cycle(modules: Mapping[str, str]) -> list[str]:
    """The modules of one import cycle, the first one also at the end; empty without a cycle."""
    graph = {name: set(imports(text, modules)) & set(modules) for name, text in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_module_imports_only_what_its_wing_may_import():
    assert violations(sources()) == []


def test_modules_have_no_import_cycle():
    assert cycle(sources()) == []


# The tests of the checks themselves

TOY = {
    "tf4ctr": "__version__ = '1'",
    "tf4ctr.errors": "class InputError(Exception): ...",
    "tf4ctr.data": "",
    "tf4ctr.data.schema": "import json\nfrom tf4ctr.errors import InputError",
    "tf4ctr.data.stream": "import polars\nfrom tf4ctr.data.schema import Schema",
    "tf4ctr.models.network": "import torch\nfrom tf4ctr.data.schema import Schema",
    "tf4ctr.training.module": "from tf4ctr import __version__\nfrom tf4ctr.data import schema, stream",
    "tf4ctr.assembly": "from tf4ctr.training.module import CTRModule",
    "tf4ctr.experiments.runs": "",
    "tf4ctr.cli": "from tf4ctr.experiments import runs",
    "train": "from tf4ctr import assembly, cli",
}


def test_the_sources_are_complete():
    assert {"tf4ctr", "tf4ctr.data", "tf4ctr.models.encoders.fm", "train"} <= set(sources())


def test_allowed_imports_are_not_reported():
    assert violations(TOY) == []
    assert cycle(TOY) == []


@pytest.mark.parametrize(
    ("name", "text", "imported"),
    [
        ("tf4ctr.models.mlp", "import lightning.pytorch as pl", "lightning.pytorch"),
        ("tf4ctr.models.mlp", "from omegaconf import DictConfig", "omegaconf"),
        ("tf4ctr.models.mlp", "from tf4ctr import __version__", "tf4ctr"),
        ("tf4ctr.models.mlp", "from tf4ctr.data import schema, stream", "tf4ctr.data.stream"),
        ("tf4ctr.models.mlp", "def f():\n    import tf4ctr.data.stream", "tf4ctr.data.stream"),
        ("tf4ctr.models.encoders.fm", "from tf4ctr.data.stream import Batch", "tf4ctr.data.stream"),
        ("tf4ctr.models.mlp", "from .network import Network", ".network"),
        ("tf4ctr.data.spec", "from tf4ctr.models.network import Network", "tf4ctr.models.network"),
        ("tf4ctr.training.loggers", "from tf4ctr.experiments.runs import ROOT", "tf4ctr.experiments.runs"),
        ("tf4ctr.training.loggers", "if True:\n    from tf4ctr import assembly", "tf4ctr.assembly"),
        ("tf4ctr.experiments.sweeps", "from tf4ctr import assembly", "tf4ctr.assembly"),
        ("tf4ctr.experiments.sweeps", "from tf4ctr.inference.gone import x", "tf4ctr.inference.gone"),
        ("tf4ctr.inference.serving", "from tf4ctr.experiments.runs import ROOT", "tf4ctr.experiments.runs"),
        ("tf4ctr.inference.serving", "from tf4ctr import cli", "tf4ctr.cli"),
        ("tf4ctr.inference.serving", "from train import main", "train"),
        ("tf4ctr.assembly", "from tf4ctr.experiments import runs", "tf4ctr.experiments.runs"),
        ("tf4ctr.cli", "from tf4ctr.assembly import build", "tf4ctr.assembly"),
        ("tf4ctr.errors", "from tf4ctr.data import schema", "tf4ctr.data.schema"),
        ("evaluate", "import train", "train"),
    ],
)
def test_a_forbidden_import_is_reported(name, text, imported):
    assert violations({**TOY, name: text}) == [f"{name} imports {imported}"]


def test_a_module_outside_the_wings_is_reported():
    assert violations({**TOY, "tf4ctr.utils.misc": "import train"}) == ["tf4ctr.utils.misc is in no wing"]


@pytest.mark.parametrize(
    "files",
    [
        {"tf4ctr.data.a": "from tf4ctr.data.b import x", "tf4ctr.data.b": "def f():\n    from tf4ctr.data import a"},
        {
            "tf4ctr.data.a": "import tf4ctr.data.b",
            "tf4ctr.data.b": "import tf4ctr.data.c",
            "tf4ctr.data.c": "import tf4ctr.data.a",
        },
    ],
    ids=["two files", "three files"],
)
def test_an_import_cycle_is_reported(files):
    names = cycle({**TOY, **files})
    assert names[0] == names[-1]
    assert set(names) == set(files)
