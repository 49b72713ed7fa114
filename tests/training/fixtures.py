"""One prepared dataset and one unbroken run for all tests of this folder; for reading only."""

import pytest

from conftest import make_spec, write_raw
from tf4ctr.data.preparation import prepare
from training.small_run import run


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Folder of a prepared dataset."""
    return prepare(make_spec(write_raw(tmp_path_factory.mktemp("toy") / "raw")))


@pytest.fixture(scope="session")
def unbroken(dataset, tmp_path_factory):
    """The end of an unbroken run of four epochs."""
    return run(dataset, tmp_path_factory.mktemp("unbroken"), epochs=4)
