"""The four benchmarks in their public schemas, drawn small, once for all tests."""

import pytest


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """Folder of the four benchmarks, 5 groups of each and of each size."""
    from evaluation.benchmarks.draw import write_benchmarks

    folder = tmp_path_factory.mktemp("drawn")
    write_benchmarks(folder, 5)
    return folder
