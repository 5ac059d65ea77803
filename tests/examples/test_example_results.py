"""Records of the programs, and the README's part that is written from them."""

import json
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def results(example):
    return example("results")


@pytest.fixture
def records():
    return json.loads((EXAMPLES / "results.json").read_text(encoding="utf-8"))


def test_the_readme_has_the_results_of_the_records(results, records):
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert results.with_results(readme, records) == readme
    changed = json.loads(json.dumps(records))
    changed[0]["tables"][0]["rows"][0][-1] = "another"
    assert results.with_results(readme, changed) != readme


def test_each_program_has_its_record_and_its_line(results, records):
    assert [record["program"] for record in records] == list(results.PROGRAMS)
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    makefile = (EXAMPLES.parent / "Makefile").read_text(encoding="utf-8")
    assert set(results.PROGRAMS) < set(makefile.split())
    sources = {path.stem: path.read_text(encoding="utf-8") for path in EXAMPLES.glob("*.py")}
    programs = {name for name, source in sources.items() if 'if __name__ == "__main__"' in source}
    assert programs > set(results.PROGRAMS)
    assert all(f"- `{name}.py`:" in readme for name in programs - {"results"})


def test_records_are_whole(records):
    for record in records:
        assert record["arguments"].get("seeds", 1) >= 1
        assert set(record["machine"]) >= {"python", "numpy", "numba", "torch", "processor", "cores"}
        assert record["date"] > "2026"
        assert "validate" not in record["arguments"] or not record["arguments"]["validate"]
    assert sum(record["cpu_seconds"] for record in records) < 15 * 60


def test_the_convolutional_network_reaches_its_mark(records):
    (record,) = (r for r in records if r["program"] == "mnist_cnn")
    assert record["arguments"]["seeds"] >= 3
    (table,) = record["tables"]
    column = table["headings"].index("test %")
    (dropped,) = (row for row in table["rows"] if row[0] == "fastdrop")
    assert float(dropped[column].split()[0]) >= 97


def test_mean_and_error(results):
    mean, error = results.mean_and_error([[1.0, 5.0], [3.0, 5.0]])
    np.testing.assert_allclose((mean, error), ([2, 5], [1, 0]))
    assert np.isnan(results.mean_and_error([1.0])[1])
    assert results.with_errors([[1.0, 5.0], [3.0, 5.0]], 1) == ["2.0 ± 1.0", "5.0 ± 0.0"]


def test_publish_and_take_over(results, monkeypatch, tmp_path, capsys):
    folder = tmp_path / "out"
    folder.mkdir()
    options = results.parser("a/data_size.py", "One line.\n\nMore.", seeds=3, each="networks").parse_args(
        ["--out", str(folder / "data_size.png")]
    )
    assert options.seeds == 3
    table = results.new_table("a title\nin lines", ["name"], ["number"])
    table.add_row("one", "1.5")
    results.publish("a/data_size.py", options, [table], "Curves", ["A note."])
    printed = capsys.readouterr().out
    assert "A note." in printed
    assert f"Curves: {options.out}" in printed

    (tmp_path / "results.json").write_text("[]", encoding="utf-8")
    marks = "\n".join(results.MARKS)
    (tmp_path / "README.md").write_text(f"Before.\n\n{marks}\n\nAfter.\n", encoding="utf-8")
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    results.main([str(folder)])
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| name | number |\n| --- | ---: |\n| one | 1.5 |" in readme
    assert (readme[:8], readme[-7:]) == ("Before.\n", "After.\n")
    assert "### `data_size.py`\n\na title in lines:\n" in readme
    assert "\n\nA note.\n\n*seeds 3; python " in readme
    again = tmp_path / "empty"
    again.mkdir()
    results.main([str(again)])
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == readme


@pytest.mark.parametrize("text", ["0", "-1", "x"])
def test_positive(results, text, capsys):
    with pytest.raises(SystemExit):
        results.parser("a.py", "", seeds=3, each="networks").parse_args(["--seeds", text])
    assert "--seeds" in capsys.readouterr().err
