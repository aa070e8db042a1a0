"""The four benchmarks in their public schemas, drawn small, once for all tests."""

import pytest

from evaluation.benchmarks.synthetic import write_benchmarks


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Folder of the four benchmarks, 5 groups of each and of each size."""
    folder = tmp_path_factory.mktemp("drawn")
    write_benchmarks(folder, 5)
    return folder
