"""The demo: its network, its copy of the tutorial's dropout, and the program at its smallest size."""

import importlib
import importlib.util
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd

PROGRAM = Path(__file__).parents[1] / "examples" / "simple_network.py"
KEY = fd.Key(7)


@pytest.fixture(scope="module")
def demo():
    pytest.importorskip("mlxtend")
    spec = importlib.util.spec_from_file_location("simple_network", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def network(demo):
    drops = [fd.Dropout(p, rng=KEY.fold_in(n)) for n, p in enumerate(demo.RATES)]
    return demo.Network((6, 8, 3), drops, np.random.default_rng(1), np.float64)


@pytest.fixture
def batch():
    rng = np.random.default_rng(2)
    return rng.normal(size=(5, 6)), rng.integers(3, size=5)


def loss_and_gradients(network, batch):
    for number, drop in enumerate(network.drops):
        drop.key = KEY.fold_in(number)  # the same masks in every evaluation
    return network.loss_and_gradients(*batch)


def central_differences(network, batch, w, step=1e-6):
    differences = np.empty_like(w)
    for place in np.ndindex(w.shape):
        value = w[place]
        ends = []
        for w[place] in (value + step, value - step):
            ends.append(loss_and_gradients(network, batch)[0])
        differences[place] = (ends[0] - ends[1]) / (2 * step)
        w[place] = value
    return differences


def test_gradients_are_central_differences(network, batch):
    _, gradients = loss_and_gradients(network, batch)
    for w, g in zip(network.parameters, gradients, strict=True):
        assert np.abs(g).max() > 1e-3  # the test would see a missing gradient
        np.testing.assert_allclose(g, central_differences(network, batch, w), rtol=1e-6, atol=1e-9)


def test_dropout_is_off_in_evaluation(network, batch):
    first, second = (network.forward(batch[0], training=False)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    network.accuracy(*batch)
    assert [drop.key.draw for drop in network.drops] == [0, 0]  # no mask was drawn
    one, other = (network.forward(batch[0], training=True)[0] for _ in range(2))
    assert not np.array_equal(one, other)


def test_a_float32_network_stays_float32(demo):
    for layer in (fd.Dropout, demo.TutorialDropout):
        drops = [layer(p, rng=KEY) for p in demo.RATES]
        network = demo.Network((6, 8, 3), drops, np.random.default_rng(1))
        _, gradients = network.loss_and_gradients(np.ones((4, 6), np.float32), np.zeros(4, int))
        assert {a.dtype for a in (*network.parameters, *gradients)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("variant", ["none", "fastdrop", "NumPy"])
def test_each_variant_learns_and_repeats(demo, variant):
    data = demo.load("digits")
    run, again = (demo.train(data, variant, seed=0, hidden=64, epochs=5) for _ in range(2))
    assert run[:2] == again[:2]
    assert run.test[-1] > 90
    assert 0 < run.dropout < run.seconds


def test_tutorial_dropout(demo):
    drop = demo.TutorialDropout(0.2, rng=KEY)
    x = np.full((200, 500), 3.0)
    y = drop.forward(x)
    assert set(np.unique(y)) == {0.0, 3 / 0.8}
    # Five standard deviations of a mean of 100,000 values of variance x^2 p/q.
    assert abs(y.mean() - 3) < 5 * 3 * np.sqrt(0.25 / y.size)
    np.testing.assert_array_equal(drop.backward(x), y)  # linear with a diagonal matrix: its own adjoint
    assert drop.forward(x, training=False) is x


@pytest.mark.parametrize("data", ["digits", "both"])
def test_the_program(demo, data, tmp_path, capsys):
    png = tmp_path / "new folder" / "curves.png"
    seeds = "2" if data == "digits" else "1"
    demo.main(["--data", data, "--epochs", "1", "--seeds", seeds, "--hidden", "16", "--out", str(png)])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Learning curves: {png}" in printed
    assert printed.count("%") > 4
    assert ("mnist" in printed) == (data == "both")
    rows = [line.split() for line in printed.splitlines() if line.split()[1:2] == ["fastdrop"]]
    assert all(0 < float(row[2]) <= 100 and 0 < float(row[5]) <= 100 for row in rows)
    assert len(rows) == (2 if data == "both" else 1)


def test_a_missing_package_is_named():
    hide = "import runpy, sys; sys.modules['tqdm'] = None; runpy.run_path(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", hide, str(PROGRAM)], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["the demo needs tqdm; use pip install '.[demo]'"]


def test_masks(tmp_path, capsys):
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("masks", PROGRAM.with_name("masks.py"))
    masks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(masks)
    x = masks.photograph(every=8)
    shown = masks.masked(x, 0.4, KEY)
    assert all(y.shape == x.shape for y in shown.values())
    assert len({y.tobytes() for y in shown.values()}) == 6
    png = tmp_path / "masks.png"
    masks.main(["--out", str(png)])
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Masks: {png}" in capsys.readouterr().out


def test_fused_network(capsys):
    runpy.run_path(str(PROGRAM.with_name("fused_network.py")))["main"](
        ["--width", "16", "--batch", "20", "--steps", "30", "--activation", "relu"]
    )
    printed = capsys.readouterr().out
    fused, steps = (
        next(line.split() for line in printed.splitlines() if name in line) for name in ("│ fused", "│ steps")
    )
    assert fused[3:6:2] == steps[3:6:2]
    assert float(fused[5]) < float(fused[3])
    assert "variance learned" in printed


@pytest.fixture
def char_rnn(demo, monkeypatch):
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    return importlib.import_module("char_rnn")


@pytest.mark.parametrize("rates", [(0.0,) * 6, (0.2, 0.3, 0.4, 0.3, 0.4, 0.2)])
def test_char_rnn_gradients_are_central_differences(char_rnn, rates):
    network = char_rnn.Network(5, 4, char_rnn.Rates(*rates), 0, np.float64)
    window = np.random.default_rng(0).integers(5, size=(7, 3))
    state = tuple(np.random.default_rng(1).standard_normal((2, 3, 4)))

    def evaluate():
        network.masks.key = KEY  # the same noise in every evaluation
        for place, zone in enumerate(network.zones):
            zone.key = KEY.fold_in(9 + place)
        return network.loss_and_gradients(window, state)

    _, gradients, _ = evaluate()
    assert gradients.keys() == network.parameters.keys()
    for name, w in network.parameters.items():
        assert np.abs(gradients[name]).max() > 1e-3
        differences = np.empty_like(w)
        for place in np.ndindex(w.shape):
            value, ends = w[place], []
            for w[place] in (value + 1e-5, value - 1e-5):
                ends.append(evaluate()[0])
            differences[place] = (ends[0] - ends[1]) / 2e-5
            w[place] = value
        np.testing.assert_allclose(gradients[name], differences, rtol=1e-6, atol=1e-9, err_msg=name)


def test_char_rnn_learns_in_float32_and_repeats(char_rnn):
    data = char_rnn.texts(640)
    for rates in (char_rnn.NOISES["none"], char_rnn.NOISES["zoneout"]):
        run, again = (char_rnn.train(data, rates, 0, 24, 6) for _ in range(2))
        assert run[:2] == again[:2]
        assert run.train[-1] < run.train[0] < np.log2(data[2]) + 1
    network = char_rnn.Network(5, 4, char_rnn.Rates(*[0.3] * 6), 0)
    _, gradients, _ = network.loss_and_gradients(np.ones((4, 3), int), network.start(3))
    assert {a.dtype for a in (*network.parameters.values(), *gradients.values())} == {np.dtype(np.float32)}


def test_char_rnn_program(char_rnn, tmp_path, capsys):
    png = tmp_path / "curves.png"
    char_rnn.main(["--length", "96", "--width", "8", "--epochs", "1", "--seeds", "2", "--out", str(png)])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Learning curves: {png}" in printed
    first_words = [line.split()[0] for line in printed.splitlines() if line.count("±") == 3]
    assert first_words == list(char_rnn.NOISES)
