"""Checks of the commands that the pages show, without running them.

The config of an entry point is composed as the entry point does. A program that is not checked,
such as docker, may stand in a marked block only.
"""

import copy
import functools
import importlib.util
import json
import re
import shlex
import tomllib
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from itertools import pairwise
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch.distributed.run import get_args_parser as get_torchrun_parser

from conftest import ROOT
from documented_commands import REASONS, Command, Fault, runner_of
from tf4ctr import config_checks
from tf4ctr.cli import explain
from tf4ctr.data import periods
from tf4ctr.data.spec import DatasetSpec
from tf4ctr.data.splits import SPLITS
from tf4ctr.errors import InputError, did_you_mean
from tf4ctr.experiments import replay
from tf4ctr.experiments.choices import choice_names, read_groups
from tf4ctr.experiments.help_text import asked, help_text
from tf4ctr.experiments.resolvers import register_resolvers
from tf4ctr.experiments.several import joined
from tf4ctr.inference.exporting import FILES

# options without which an entry point refuses to start
REQUIRED = {
    "describe": ("input", "name"),
    "evaluate": ("run",),
    "export": ("run",),
    "predict": ("run", "input", "output"),
    "replay": ("by",),
    "serve": ("export",),
}
# values that the entry point checks, and not the config
VALUES = {
    ("evaluate", "split"): (*SPLITS, "val"),
    ("export", "format"): tuple(FILES),
    ("predict", "bad_rows"): ("refuse", "skip"),
    ("prepare", "engine"): ("polars", "ray"),
}
# what a command needs that a fresh clone may not have
NEEDS = {"download=true": "a download", "trainer=gpu": "a GPU", "trainer=ddp": "a GPU", "trainer=slurm": "a cluster"}
PLAIN = ("cd", "source", "ls", "cat", "head", "cp", "mkdir", "echo", "export")  # programs with nothing to check


def faults_of(command: Command, made: Path) -> list[Fault]:
    """What is wrong with a command.

    Args:
        command: of a page.
        made: a folder like conf/ with the yamls that the reader has written.
    """
    if runner_of(command.reason):
        return []
    try:
        parts = _parts(command.text)
    except ValueError as error:
        parts, found = [], [f"the shell cannot read it: {error}"]
    else:
        found = []
    for words in parts:
        try:
            _check_program(words, command.reason, made)
        except InputError as error:
            found.append(str(error))
    return [Fault(command.file, command.line, command.text, what) for what in found]


def _parts(text: str) -> list[list[str]]:
    """The words of each program of a command line, without variables before and files behind it."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";<>|&()")
    lexer.whitespace_split = True
    parts: list[list[str]] = [[]]
    skipped = False
    for word in lexer:
        if skipped:  # the file of a redirection
            skipped = False
        elif set(word) <= set("<>&") and set(word) & set("<>"):
            skipped = True
        elif set(word) <= set(";|&"):
            parts.append([])
        elif set(word) <= set(";<>|&()"):
            raise ValueError(f"{word} needs quotes")
        elif parts[-1] or not re.match(r"[A-Za-z_]\w*=", word):
            parts[-1].append(word)
    return [words for words in parts if words]


def _check_program(words: Sequence[str], reason: str | None, made: Path) -> None:
    """Check one program with its arguments.

    Raises:
        InputError: the program does not start with these.
    """
    name, arguments = Path(words[0]).name, list(words[1:])
    if any(word in ("...", "…") for word in arguments):
        raise InputError("... is no argument: a command is shown whole")
    if re.fullmatch(r"python[\d.]*", name):
        _check_python(arguments, reason, made)
    elif name == "make":
        _check_make(arguments, reason, made)
    elif name == "torchrun":
        _check_torchrun(arguments, reason, made)
    elif name == "srun":
        _needs("a cluster", "srun", reason)
        start = next((index for index, word in enumerate(arguments) if word.startswith("python")), None)
        if start is None:
            raise InputError("srun: there is no python command behind it")
        _check_python(arguments[start + 1 :], reason, made)
    elif name == "uv" and arguments[:1] == ["run"]:
        _check_program(arguments[1:], reason, made)
    elif name in ("pip", "uv"):
        _check_pip(arguments, reason)
    elif name == "curl":
        _check_curl(arguments, reason)
    elif name not in PLAIN and reason is None:
        raise InputError(f"{name} is not checked: mark the block, <!-- not run: needs a {' | '.join(REASONS)} -->")


def _needs(what: str, part: str, reason: str | None) -> None:
    """Require a mark for a part of a command that needs what a fresh clone may not have."""
    if reason is None:
        raise InputError(f"{part} needs {what}: mark the block, <!-- not run: needs {what} -->")


def _check_python(arguments: Sequence[str], reason: str | None, made: Path) -> None:
    if arguments[:2] == ["-m", "pip"]:
        _check_pip(arguments[2:], reason)
    elif arguments[:1] == ["-m"]:
        if importlib.util.find_spec(arguments[1].partition(".")[0]) is None:
            raise InputError(f"python -m {arguments[1]}: there is no such module")
    elif arguments[:1] == ["-c"]:
        try:
            compile(arguments[1], "command", "exec")
        except SyntaxError as error:
            raise InputError(f"python -c: {error}") from error
    elif arguments and arguments[0] != "-":  # which reads a program from <<
        path = re.sub(r".*?(?=\b(?:src|tests)/)", "", arguments[0], count=1)
        if not (ROOT / path).is_file():
            raise InputError(f"{arguments[0]}: there is no such file")
        if path.startswith("src/"):
            _check_entry_point(Path(path).stem, list(arguments[1:]), reason, made)


def _check_make(arguments: Sequence[str], reason: str | None, made: Path) -> None:
    """Check that targets and variables are those of the Makefile, and what ARGS passes on."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", text, re.MULTILINE)
    named = dict(word.split("=", 1) for word in arguments if "=" in word)
    wanted = [word for word in arguments if "=" not in word]
    for variable in named:
        if f"$({variable})" not in text:
            raise InputError(f"make {variable}=: the Makefile has no such variable")
    for target in wanted:
        if target not in targets:
            raise InputError(f"make {target}: there is no such target, {did_you_mean(target, targets)}")
    if wanted == ["train"]:
        _check_entry_point("train", shlex.split(named.get("ARGS", "")), reason, made)
    if wanted == ["test"]:
        paths = [word.partition("::")[0] for word in shlex.split(named.get("ARGS", "")) if word.startswith("tests")]
        if missing := [path for path in paths if not (ROOT / path).exists()]:
            raise InputError(f"make test: there is no {', '.join(missing)}")


def _check_torchrun(arguments: Sequence[str], reason: str | None, made: Path) -> None:
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            parsed = get_torchrun_parser().parse_args(list(arguments))
    except SystemExit as stop:
        raise InputError(f"torchrun: {errors.getvalue().strip().splitlines()[-1]}") from stop
    _check_python([parsed.training_script, *parsed.training_script_args], reason, made)


def _check_pip(arguments: Sequence[str], reason: str | None) -> None:
    """Check the extras of the project in `pip install -e ".[report]"`."""
    if "install" in arguments or "sync" in arguments:
        _needs("a download", "an installation", reason)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [name for word in arguments if (found := re.search(r"\[(.*)\]$", word)) for name in found[1].split(",")]
    named += [after for word, after in pairwise(arguments) if word == "--extra"]
    for name in named:
        if name not in extras:
            raise InputError(f"extra {name}: there is no such extra, {did_you_mean(name, list(extras))}")


def _check_curl(arguments: Sequence[str], reason: str | None) -> None:
    """Check path and body of a request to the server; other addresses are a download."""
    source = (ROOT / "src/tf4ctr/inference/serving.py").read_text()
    paths = ["/docs", *re.findall(r'"(/\w+)"', source)]
    address = next((word for word in arguments if re.match(r"(https?://)?[\w.-]+(:\w+)?/", word)), None)
    if address is None:
        raise InputError("curl: there is no address")
    host, path = re.fullmatch(r"(?:https?://)?([\w.-]+)(?::\w+)?(/\S*)", address).groups()  # type: ignore[union-attr]
    if host not in ("localhost", "127.0.0.1"):
        _needs("a download", address, reason)
    elif path not in paths:
        raise InputError(f"{address}: the server has no such path, {did_you_mean(path, paths)}")
    for word, after in pairwise(arguments):
        if word in ("-d", "--data") and not after.startswith("@"):
            try:
                json.loads(after)
            except json.JSONDecodeError as error:
                raise InputError(f"curl {word}: this is no JSON: {error}") from error


def _check_entry_point(name: str, arguments: list[str], reason: str | None, made: Path) -> None:
    """Compose the config of an entry point as it does, and check it as far as no data is needed."""
    if not (ROOT / "conf" / f"{name}.yaml").is_file():
        raise InputError(f"src/{name}.py: there is no such entry point")
    topics = asked(arguments)
    if topics is not None:
        help_text(name, topics)
        return
    arguments = joined(arguments, "runs" if name == "report" else "run")
    errors = StringIO()
    try:
        with redirect_stderr(errors):
            parsed = get_args_parser().parse_args(arguments)
    except SystemExit as stop:
        raise InputError(errors.getvalue().strip().splitlines()[-1]) from stop
    for option, what in NEEDS.items():
        if option in parsed.overrides:
            _needs(what, option, reason)
    if any(override.startswith("sweep.resume=") for override in parsed.overrides):
        if len(parsed.overrides) > 1 or not parsed.multirun:
            raise InputError("sweep.resume= stands alone behind -m")
        return
    try:
        if not parsed.multirun:
            parser = OverridesParser.create()
            ConfigLoaderImpl.validate_sweep_overrides_legal(parser.parse_overrides(parsed.overrides), RunMode.RUN, True)
        overrides = [_single(override, made) if parsed.multirun else override for override in parsed.overrides]
        overrides = [_chosen(override) for override in overrides]
        config = _composed(name, overrides, made)
        _check_config(name, config, parsed.multirun)
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        raise InputError(message) from error


def _single(text: str, made: Path) -> str:
    """One value of an override that may have several: an unknown choice of a group if it is one."""
    override: Override = OverridesParser.create().parse_override(text)
    if not override.is_sweep_override():
        return text
    key, value = override.get_key_element(), override.value()
    if isinstance(value, IntervalSweep):
        return f"{key}={value.start}"
    values = list(override.sweep_string_iterator())
    names = _names(override.key_or_group, made)
    return f"{key}={next((value for value in values if names and value not in names), values[0])}"


def _names(group: str, made: Path) -> list[str]:
    """The choices of a group, and those that the reader has made; none if it is no group."""
    own = [path.stem for path in (made / group).glob("*.yaml")]
    return choice_names(group) + own if (ROOT / "conf" / group).is_dir() else []


def _chosen(text: str) -> str:
    """An override whose value is a placeholder, as dataset=NAME, with a choice in its place."""
    found = re.fullmatch(r"(\+?(\w+)(?:@[\w.]+)?)=[A-Z_]{2,}", text)
    return f"{found[1]}={_usual(found[2])}" if found and (ROOT / "conf" / found[2]).is_dir() else text


def _composed(name: str, overrides: Sequence[str], made: Path) -> DictConfig:
    """The config of an entry point.

    Hydra applies values after it has composed the choices of groups. So do we, because composing is
    slow, and the commands of the pages have few different choices.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    groups = [override for override in parsed if _is_group(override.key_or_group)]
    config = copy.deepcopy(_with_choices(name, tuple(str(override.input_line) for override in groups), made))
    ConfigLoaderImpl._apply_overrides_to_config([override for override in parsed if override not in groups], config)
    return config


def _is_group(key: str) -> bool:
    return "/" in key or (ROOT / "conf" / key).is_dir()


@functools.cache
def _with_choices(name: str, choices: tuple[str, ...], made: Path) -> DictConfig:
    """The config of an entry point with choices of groups, and with Hydra's own values."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        # the reader makes choices of groups, which train.yaml and those based on it have
        search = [f"hydra.searchpath=[file://{made}]"] if made.is_dir() and read_groups(name) else []
        return compose(name, [*choices, *search], return_hydra_config=True)


def _check_config(name: str, config: DictConfig, several: bool) -> None:
    for option in REQUIRED.get(name, ()):
        if config[option] is None:
            raise InputError(f"{option}= is missing")
    for (entry_point, option), values in VALUES.items():
        if name == entry_point and config[option] not in values:
            raise InputError(f"{option}={config[option]}: {did_you_mean(str(config[option]), values)}")
    if name == "report" and config.runs is None and config.run is None:
        raise InputError("runs= is missing")
    if name == "replay":
        replay.check_options(config)
        periods.check_options(config.by, config.every, config.min_rows)
    if "dataset" in config:
        spec = DatasetSpec.from_config(OmegaConf.to_container(config.dataset, resolve=True))  # type: ignore[arg-type]
        if name != "prepare" and not several:  # one job of several may be wrong, which is a result too
            config_checks.check_config(config, spec)


def write_made(texts: Sequence[str], folder: Path) -> None:
    """Write stand-ins for the yamls that the pages tell the reader to write.

    They are those of `describe.py name=NAME`, and each GROUP/NAME.yaml that a page names and the
    project does not have. A stand-in has the content of another choice of the group.
    """
    text = "\n".join(texts)
    written = {("dataset", name) for name in re.findall(r"describe\.py\b.*?\bname=([a-z]\w*)", text)}
    written |= set(re.findall(r"\b(\w+)/([a-z]\w*)\.yaml", text))
    for group, name in written:
        known = choice_names(group) if (ROOT / "conf" / group).is_dir() else []
        if known and name not in known:
            (folder / group).mkdir(parents=True, exist_ok=True)
            content = (ROOT / "conf" / group / f"{_usual(group)}.yaml").read_text()
            (folder / group / f"{name}.yaml").write_text(content)


def _usual(group: str) -> str:
    """A choice of a group for any purpose."""
    defaults = {listed.name: listed.default for listed in read_groups("train")} | {"dataset": "frappe"}
    default = defaults.get(group)
    return default if default in choice_names(group) else choice_names(group)[0]
