"""The demo: its network, its copy of the tutorial's dropout, and the program at its smallest size."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from gradients import check_gradients

import fastdrop as fd

PROGRAM = Path(__file__).parents[2] / "examples" / "simple_network.py"
KEY = fd.Key(7)


@pytest.fixture
def demo(example):
    return example("simple_network")


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


def test_gradients_are_central_differences(network, batch):
    check_gradients(network.parameters, lambda: loss_and_gradients(network, batch))


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


@pytest.mark.parametrize(
    ("program", "package"),
    [
        ("simple_network", "tqdm"),
        ("compare_dropouts", "threadpoolctl"),
        ("char_rnn", "numpy"),
        ("mnist_cnn", "torch"),
    ],
)
def test_a_missing_package_is_named(program, package, monkeypatch):
    monkeypatch.syspath_prepend(PROGRAM.parent)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as ended:  # whose text Python prints, and ends with status 1
        runpy.run_path(str(PROGRAM.with_stem(program)))
    assert ended.value.__suppress_context__
    extra = "examples" if program == "mnist_cnn" else "demo"
    assert str(ended.value).endswith(f"needs {package}; use pip install '.[{extra}]'")


def test_masks(example, tmp_path, capsys):
    masks = example("masks")
    x = masks.photograph(every=8)
    shown = masks.masked(x, 0.4, KEY)
    assert all(y.shape == x.shape for y in shown.values())
    assert len({y.tobytes() for y in shown.values()}) == 6
    png = tmp_path / "masks.png"
    masks.main(["--out", str(png)])
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Masks: {png}" in capsys.readouterr().out


@pytest.fixture
def uncertainty(example):
    return example("uncertainty")


def test_gradients_of_the_uncertain_network(uncertainty):
    rng = np.random.default_rng(3)
    network = uncertainty.Network((1, 7, 6, 1), 0.3, rng)
    x, y = uncertainty.points(6, rng, (-1, 1))
    check_gradients(network.parameters, lambda: network.loss_and_gradients(x, y, KEY))


def test_a_key_is_one_curve(uncertainty):
    network = uncertainty.Network((1, 20, 20, 1), 0.3, np.random.default_rng(3))
    x = np.linspace(-1, 1, 9)[:, None]
    np.testing.assert_allclose(network(x[4:6], KEY), network(x, KEY)[4:6], rtol=1e-12)
    assert np.abs(network(x, KEY) - network(x, KEY.next())).max() > 0.01
    assert np.array_equal(network(x), network(x))


def test_uncertainty(uncertainty, tmp_path, capsys):
    png = tmp_path / "new folder" / "bands.png"
    sizes = ["--seeds", "2", "--steps", "400", "--width", "20", "--samples", "20"]
    uncertainty.main([*sizes, "--out", str(png)])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Bands: {png}" in printed
    rows = {
        line[:42].strip(): [float(word) for word in line[42:].split() if word != "±"]
        for line in printed.splitlines()
        if "±" in line and ("dropout" in line or "then off" in line)
    }
    assert len(rows) == 5
    near = [rows[label][0] for label in uncertainty.ROWS]
    assert min(near) > -2  # of a curve that is learned; 0.88 were the noise alone
    assert rows["MC dropout minus trained without dropout"][0] == pytest.approx(near[2] - near[0], abs=0.011)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_gradients_of_fused_and_single_passes(example, activation):
    fused_network = example("fused_network")
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(6, 4)), rng.integers(10, size=6)
    for passes in (fused_network.Fused, fused_network.Steps):
        network = fused_network.Network(4, 5, 2, passes, activation, np.float64)

        def evaluate(network=network):
            return network.loss_and_gradients(x, labels, KEY)

        check_gradients(network.parameters, evaluate)


def test_fused_network(example, tmp_path, capsys):
    png = tmp_path / "losses.png"
    sizes = ["--width", "16", "--batch", "20", "--steps", "30", "--activation", "relu"]
    example("fused_network").main([*sizes, "--out", str(png)])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    rows = [line.split() for line in printed.splitlines()]
    fused, steps = (next(row for row in rows if row[:1] == [name]) for name in ("fused", "steps"))
    assert fused[1:3] == steps[1:3]
    assert float(fused[2]) < float(fused[1])
    assert "Variance learned" in printed


@pytest.fixture
def concrete_rate(example):
    return example("concrete_rate")


def test_gradients_of_concrete_rates(concrete_rate):
    network, (x, y) = concrete_rate.Network((1, 5, 4, 1), 20, seed=1), concrete_rate.data(20, seed=1)

    def loss_and_gradients():
        for number, drop in enumerate(network.drops):
            drop.key = KEY.fold_in(number)
        loss, gradients = network.loss_and_gradients(x, y - 8)  # a small loss has a small rounding error
        return loss, [g.copy() for g in gradients]

    check_gradients(network.parameters, loss_and_gradients)


def test_concrete_rates(concrete_rate, tmp_path, capsys):
    png = tmp_path / "rates.png"
    options = ["--steps", "150", "--seeds", "2", "--hidden", "16", "--out", str(png)]
    concrete_rate.main(["--examples", "5", "2000", *options])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    few, many = (
        next(line.split() for line in printed.splitlines() if line.startswith(f"{n} ")) for n in (5, 2000)
    )
    assert float(few[7]) > float(many[7])  # less data, more dropout before the last layer


@pytest.fixture
def char_rnn(example):
    return example("char_rnn")


@pytest.mark.parametrize(
    "rates", [pytest.param((0.0,) * 6, marks=pytest.mark.slow), (0.2, 0.3, 0.4, 0.3, 0.4, 0.2)]
)
def test_char_rnn_gradients_are_central_differences(char_rnn, rates):
    network = char_rnn.Network(5, 4, char_rnn.Rates(*rates), 0, np.float64)
    window = np.random.default_rng(0).integers(5, size=(7, 3))
    state = tuple(np.random.default_rng(1).standard_normal((2, 3, 4)))

    def evaluate():
        network.masks.key = KEY  # the same noise in every evaluation
        for place, zone in enumerate(network.zones):
            zone.key = KEY.fold_in(9 + place)
        loss, gradients, _ = network.loss_and_gradients(window, state)
        return loss, [gradients[name] for name in network.parameters]

    check_gradients(list(network.parameters.values()), evaluate, step=1e-5)


def test_char_rnn_learns_in_float32_and_repeats(char_rnn):
    data = char_rnn.texts(640)
    for rates in (char_rnn.NOISES["none"], char_rnn.NOISES["zoneout"]):
        run, again = (char_rnn.train(data, rates, 0, 24, 6) for _ in range(2))
        assert run[:2] == again[:2]
        assert run.train[-1] < run.train[0] < np.log2(data[2]) + 1
    network = char_rnn.Network(5, 4, char_rnn.Rates(*[0.3] * 6), 0)
    _, gradients, _ = network.loss_and_gradients(np.ones((4, 3), int), network.start(3))
    assert {a.dtype for a in (*network.parameters.values(), *gradients.values())} == {np.dtype(np.float32)}


def test_char_rnn_evaluation_repeats(char_rnn):
    network = char_rnn.Network(5, 4, char_rnn.Rates(*[0.3] * 6), 0)
    tokens = np.random.default_rng(0).integers(5, size=(9, 3))
    first, again = (network.forward(tokens, network.start(3), False)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    one, other = (network.forward(tokens, network.start(3), True)[0] for _ in range(2))
    assert not np.array_equal(one, other)


def test_char_rnn_program(char_rnn, tmp_path, capsys):
    png = tmp_path / "curves.png"
    char_rnn.main(["--length", "96", "--width", "8", "--epochs", "1", "--seeds", "2", "--out", str(png)])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Learning curves: {png}" in printed
    first_words = [line.split()[0] for line in printed.splitlines() if line.count("±") == 3]
    assert first_words == list(char_rnn.NOISES)


@pytest.fixture
def char_transformer(example):
    return example("char_transformer")


def parts_of(layer):
    """A layer of the transformer and those within it."""
    yield layer
    for inner in getattr(layer, "layers", ()):
        yield from parts_of(inner)


@pytest.mark.parametrize("rates", [pytest.param((0.0,) * 3, marks=pytest.mark.slow), (0.3, 0.2, 0.3)])
def test_char_transformer_gradients_are_central_differences(char_transformer, rates, monkeypatch):
    monkeypatch.setattr(char_transformer, "CONTEXT", 7)
    network = char_transformer.transformer(5, 8, 1, char_transformer.Rates(*rates), 0, np.float64)
    text = np.random.default_rng(0).integers(5, size=(3, 8))

    def evaluate():
        noises = [part for part in parts_of(network) if hasattr(part, "key")]
        assert len(noises) == 6
        for number, part in enumerate(noises):
            part.key = KEY.fold_in(number)  # the same noise in every evaluation
        return network.loss_and_gradients(text[:, :-1], text[:, 1:])

    check_gradients(network.parameters, evaluate, step=1e-5)


def test_char_transformer_learns_in_float32_and_repeats(char_transformer):
    *parts, vocabulary = char_transformer.texts(640)
    data = *(part.T.ravel() for part in parts), vocabulary
    for rates in (char_transformer.NOISES["none"], char_transformer.NOISES["all"]):
        run, again = (char_transformer.train(data, rates, 0, 16, 1, 12) for _ in range(2))
        assert run[:2] == again[:2]
        assert run.train[-1] < run.train[0] < np.log2(vocabulary) + 1
    network = char_transformer.transformer(5, 8, 1, char_transformer.Rates(0.3, 0.3, 0.3), 0)
    _, gradients = network.loss_and_gradients(np.ones((3, 4), int), np.ones((3, 4), int))
    assert {a.dtype for a in (*network.parameters, *gradients)} == {np.dtype(np.float32)}


def test_char_transformer_looks_back_alone_and_evaluation_repeats(char_transformer):
    network = char_transformer.transformer(5, 8, 2, char_transformer.Rates(0.3, 0.3, 0.3), 0)
    tokens = np.random.default_rng(0).integers(5, size=(3, 9))
    first, again = (network.forward(tokens, False)[0] for _ in range(2))
    assert first.tobytes() == again.tobytes()
    one, other = (network.forward(tokens, True)[0] for _ in range(2))
    assert not np.array_equal(one, other)
    changed = tokens.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 5
    moved = np.abs(network.forward(changed, False)[0] - first).max((0, 2)) > 1e-6
    assert moved.tolist() == [False] * 5 + [True] * 4


def test_char_transformer_program(char_transformer, tmp_path, capsys):
    png = tmp_path / "curves.png"
    sizes = ["--length", "256", "--width", "8", "--layers", "1", "--epochs", "1", "--seeds", "2"]
    char_transformer.main([*sizes, "--out", str(png)])
    printed = capsys.readouterr().out
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"Learning curves: {png}" in printed
    first_words = [line.split()[0] for line in printed.splitlines() if line.count("±") == 3]
    assert first_words == list(char_transformer.NOISES)
    for wrong in (["--width", "6"], ["--length", "100"]):
        with pytest.raises(SystemExit):
            char_transformer.main(wrong)
        assert f"{wrong[0]} must be" in capsys.readouterr().err
