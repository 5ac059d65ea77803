"""Every feature of PyTorch with every way to drop, as the table in docs/torch.md says."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

import torch_features as features  # noqa: E402
from tensors import needs_compiler  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "torch.md"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
MARKS = {"slow": pytest.mark.slow, "compiler": needs_compiler}
DESCRIPTIONS = [
    pytest.param(description, marks=[MARKS[mark] for mark in marks])
    for description, marks in features.MARKS.items()
]


@pytest.mark.parametrize("column", features.COLUMNS)
@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_feature(description, column):
    check, exceptions = features.CHECKS[description]
    expected = exceptions.get(column)
    found = features.outcome(check, features.COLUMNS[column](), column)
    if expected is None or isinstance(expected, str):
        if isinstance(found, Exception):
            raise found
        assert found == "works"
    else:
        kind, message = expected
        assert isinstance(found, kind), found
        assert re.search(message, str(found))


def test_the_page_has_the_table():
    """If not: python tests/torch_features.py > docs/torch.md."""
    assert PAGE.read_text() == features.page()
