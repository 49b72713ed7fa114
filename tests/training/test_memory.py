import re
from functools import partial

import psutil
import pytest

from conftest import run_script
from tf4ctr.errors import InputError
from tf4ctr.models.dfm import WeightedSum
from tf4ctr.models.embedding import FieldEmbedding
from tf4ctr.models.encoders.linear import Linear
from tf4ctr.models.encoders.mlp import MLP
from tf4ctr.models.network import Network
from tf4ctr.models.ssem import Shared
from tf4ctr.training.memory import TableMemory, check_memory, machine_memory, peak_memory, table_memory
from tf4ctr.training.tables import parts_table


@pytest.mark.parametrize(
    ("options", "ranks", "expected"),
    [
        ({}, 1, (16 * 5, 16 * 5, 32 * 5)),  # 16 rows of 4 and of 1 numbers
        ({}, 3, (16 * 5, 16 * 5, 32 * 5)),
        ({"sparse": True}, 1, (16 * 5, 0, 32 * 5)),
        ({"sharded": True}, 3, (6 * 5, 0, 12 * 5)),
    ],
)
def test_the_memory_of_tables_is_that_of_their_numbers(schema, options, ranks, expected):
    encoders = {"simple": Linear, "complex": partial(MLP, hidden_units=[4])}
    network = Network(schema, partial(FieldEmbedding, **options), 4, Shared, encoders, WeightedSum)
    memory = table_memory(network, ranks)
    assert memory == tuple(4 * numbers for numbers in expected)
    if not options:
        trained = [*network.tables()]
        assert memory.weight == sum(weight.numel() * weight.element_size() for weight in trained)
    large = table_memory(network, ranks, rows=16_000)
    assert large.total == pytest.approx(1000 * memory.total, rel=0.12)  # a share is rounded up
    caption = str(parts_table(network, TableMemory(10**6, 0, 2 * 10**9)).caption)
    assert caption.endswith("per device: weight 1.0 MB, gradient 0.0 MB, moments 2.0 GB, total 2.0 GB")


def test_the_peak_memory_of_a_process_is_between_its_own_and_the_machines():
    peak = peak_memory()
    assert re.fullmatch(r"[\d,.]+ [MG]B(, [\d,.]+ [MG]B on the GPU)?", peak)
    size = float(peak.split()[0].replace(",", "")) * (1e9 if peak.split()[1].startswith("GB") else 1e6)
    assert 0.5 * psutil.Process().memory_info().rss < size < psutil.virtual_memory().total


def test_tables_that_do_not_fit_are_refused_with_the_numbers():
    whole = machine_memory()
    check_memory(TableMemory(whole // 2, 0, 0), "cpu", ranks=2)
    with pytest.raises(InputError, match=r"need .* GB in training \(weight .* GB, 2 times\), and this machine has"):
        check_memory(TableMemory(whole // 2 + 1, 0, 0), "cpu", ranks=2)


@pytest.mark.parametrize(
    ("line", "files", "limit"),
    [
        ("0::/a/b", {"a/memory.max": "5000", "a/b/memory.max": "max"}, 5000),  # version 2
        ("0::/", {"memory.max": "7000"}, 7000),
        ("0::/../job", {"memory.max": "7000"}, 7000),  # a container sees only its own part
        ("4:cpu,memory:/a", {"memory/a/memory.limit_in_bytes": "9000", "memory.max": "1"}, 9000),  # version 1
        ("2:cpu:/a", {"memory/a/memory.limit_in_bytes": "9000"}, None),
        ("0::/", {}, None),
        ("0::/", {"memory.max": str(2**63 - 4096)}, None),
    ],
)
def test_the_limit_of_a_container_counts(tmp_path, line, files, limit):
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(line + "\n")
    for name, text in files.items():
        path = tmp_path / "sys" / "fs" / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert machine_memory(tmp_path) == (limit or psutil.virtual_memory().total)
    assert machine_memory(tmp_path / "elsewhere") == psutil.virtual_memory().total


def test_a_run_that_cannot_fit_is_refused_before_data_is_read(toy, tmp_path):
    toy = [option for option in toy if not option.startswith("dataset.fields")]
    large = run_script("train.py", *toy, "dataset.fields=[user,{name: item, hash: 2000000000}]", "embedding.dim=2048")
    assert large.returncode == 2
    shown = " ".join(large.stderr.split())
    assert "the embedding tables need 98," in shown  # rows 2e9 of 2048 and 1024 numbers, 4 times 4 bytes
    assert "embedding.dim, dataset.min_count, or max_values or hash" in shown
    assert not (tmp_path / "prepared").exists()
    dry = run_script("train.py", *toy, "dataset.fields=[user,{name: item, hash: 20000}]", "dry_run=true")
    assert dry.returncode == 0, dry.stderr
    assert "Memory of the tables, per device" in dry.stdout
    assert "8.0 MB" in dry.stdout  # 20,034 rows of 16, 8 and 1 numbers, 4 times 4 bytes
