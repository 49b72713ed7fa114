import pytest

from conftest import WARM
from tf4ctr.files import write_whole


def test_a_text_is_written_and_nothing_beside_it(tmp_path):
    write_whole(tmp_path / "a.json", "one")
    write_whole(tmp_path / "a.json", "two")
    assert (tmp_path / "a.json").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_whole(tmp_path / "a.json", "one")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a.json", "half of it \ud800")
    assert (tmp_path / "a.json").read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def write_often(path, text):
    for _ in range(300):
        write_whole(path, text)


def test_two_processes_write_the_same_file(tmp_path):
    path, texts = tmp_path / "a.json", ("a" * 50_000, "b" * 50_000)
    processes = [WARM.Process(target=write_often, args=(path, text)) for text in texts]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert not path.exists() or path.read_text() in texts
    assert [process.exitcode for process in processes] == [0, 0]
    assert [other.name for other in tmp_path.iterdir()] == ["a.json"]
