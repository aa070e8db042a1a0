import pytest

from tests.public_shapes.__main__ import write_raw
from tests.public_shapes.draw import SMALL

ROWS = 60


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Every public dataset, ROWS edits of each, images of 64 x 96 pixels."""
    folder = tmp_path_factory.mktemp("public") / "raw"
    write_raw(folder, ROWS, size=SMALL)
    return folder
