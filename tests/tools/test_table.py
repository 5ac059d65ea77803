"""The table of the noises: up to date, and without a blank that nobody gave a reason for."""

from pathlib import Path

import pytest

pytest.importorskip("torch")

from fastdrop._noises._noise import NOISES
from fastdrop._tools.table import found, missing, table

PAGE = Path(__file__).parents[2] / "docs" / "noises.md"


def test_the_page_is_up_to_date():
    """If not: python -m fastdrop._tools.table > docs/noises.md."""
    assert PAGE.read_text() == table()


@pytest.mark.parametrize("name", NOISES)
def test_what_is_missing_has_a_reason_and_what_has_a_reason_is_missing(name):
    assert missing(NOISES[name]) == set(NOISES[name].lacks)


def test_the_table_looks_at_the_package(monkeypatch):
    import fastdrop.dask

    dropout = NOISES["dropout"]
    assert found(dropout)["dask"] == "dropout"
    assert missing(dropout) == set()
    monkeypatch.delattr(fastdrop.dask, "dropout_backward")
    assert found(dropout)["dask"] == ""
    assert missing(dropout) == {"dask"}


def test_what_is_beside_a_noise_is_where_it_says():
    for noise in NOISES.values():
        assert set(noise.beside_on_gpu) <= {each.__name__ for each in noise.beside}
    lines = table().splitlines()
    assert "- `keep_mask` of `dropout`, also in dask and on a GPU" in lines
    assert "- `apply_mask` of `dropout`, also on a GPU" in lines


def test_every_noise_has_a_row():
    rows = [line.split(" | ") for line in table().splitlines() if line.startswith("| `")]
    assert len(rows) == len(NOISES)
    assert {len(row) for row in rows} == {12}
