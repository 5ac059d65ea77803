"""The tutorial's networks: gradients, evaluation without noise, and the programs at their smallest size."""

import gzip
import json

import numpy as np
import pytest
from gradients import check_gradients

import fastdrop as fd

torch = pytest.importorskip("torch")
KEY = fd.Key(7)


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def png(tmp_path):
    return tmp_path / "new folder" / "picture.png"


def check_written(png, program, printed, label):
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert f"{label}: {png}" in printed
    record = json.loads(png.with_suffix(".json").read_text(encoding="utf-8"))
    assert record["program"] == program
    assert all(len(row) == len(t["headings"]) for t in record["tables"] for row in t["rows"])
    return record


def check_evaluation(model, x):
    """Evaluation repeats to the bit and draws nothing; training differs from one call to the next."""
    noises = [n for n in (getattr(a, "noise", a) for a in model.layers) if hasattr(n, "key")]
    draws = [noise.key.draw for noise in noises]
    first, second = (model.probabilities(x) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert [noise.key.draw for noise in noises] == draws
    return not np.array_equal(*(model.forward(x, True)[0] for _ in range(2)))


class TestRegularized:
    @pytest.fixture
    def program(self, example):
        return example("regularized_network")

    def test_gradients(self, program, rng):
        for recipe in program.RECIPES.values():
            model = program.network(recipe, (5, 6, 4, 3), 1, np.float64)
            x, labels = rng.normal(size=(8, 5)), rng.integers(3, size=8)

            def evaluate(model=model, x=x, labels=labels):
                for number, layer in enumerate(model.layers):
                    if hasattr(layer, "key"):
                        layer.key = KEY.fold_in(number)
                return model.loss_and_gradients(x, labels)

            # a batch normalisation undoes what the bias before it adds, whose gradient is 0
            learned = [n for n, g in enumerate(evaluate()[1]) if np.abs(g).max() > 1e-3]
            assert len(learned) == len(model.parameters) - 2 * recipe.norm
            chosen = [model.parameters[n] for n in learned]

            def of_chosen(evaluate=evaluate, learned=learned):
                loss, gradients = evaluate()
                return loss, [gradients[n] for n in learned]

            check_gradients(chosen, of_chosen)

    def test_evaluation_repeats(self, program, rng):
        x = rng.normal(size=(9, 5)).astype(np.float32)
        for recipe in program.RECIPES.values():
            model = program.network(recipe, (5, 6, 4, 3), 1)
            model.forward(x, True)
            assert check_evaluation(model, x) == any(recipe.dropped)

    def test_dropout_and_relu_commute(self, program, rng):
        relu, drop = program.ReLU(), fd.Dropout(0.5, rng=KEY)
        x = rng.normal(size=(20, 30))
        before = relu.forward(drop.forward(x, True), True)
        drop.key = KEY
        np.testing.assert_array_equal(before, drop.forward(relu.forward(x, True), True))

    def test_the_variance_shifts_where_dropout_is_before_a_batch_norm(self, program, example):
        data = example("parts").load("digits")
        found = {
            name: program.train(data, program.RECIPES[name], 0, 64, 20)
            for name in ("all of them", "dropout in both blocks", "none of them")
        }
        assert found["none of them"].shifts == []
        (first, clean), (also_first, shifted) = (
            found[name].shifts for name in ("all of them", "dropout in both blocks")
        )
        for ratio in (first, clean, also_first):
            assert ratio == pytest.approx(1, abs=0.15)
        assert shifted > 1.25
        assert found["none of them"].anew == found["none of them"].test > 90

    def test_statistics_taken_anew_have_no_shift(self, program, rng):
        x = rng.normal(size=(50, 5)).astype(np.float32)
        model = program.network(program.Recipe(dropped=(True, True)), (5, 6, 4, 3), 1)
        model.forward(x, True)
        mean = model.layers[1].mean.copy()
        anew = program.taken_anew(model, x)
        np.testing.assert_allclose(program.shifts(anew, x), 1, rtol=1e-5)
        assert max(program.shifts(model, x)) < 0.9 or min(program.shifts(model, x)) > 1.1  # one batch in ten
        np.testing.assert_array_equal(model.layers[1].mean, mean)  # of the network that was given

    def test_program(self, program, png, capsys):
        program.main(["--data", "digits", "--epochs", "1", "--seeds", "2", "--width", "8", "--out", str(png)])
        record = check_written(png, "regularized_network", capsys.readouterr().out, "Accuracies and ratios")
        (table,) = record["tables"]
        assert [row[0] for row in table["rows"]] == list(program.RECIPES)
        assert [row[-1].count(".") for row in table["rows"]] == [2, 2, 0, 2, 0, 2, 2]


class TestCompared:
    @pytest.fixture
    def program(self, example):
        return example("compare_dropouts")

    @pytest.fixture
    def networks(self, example):
        return example("noisy_network")

    def test_gradients(self, program, networks, rng):
        x, labels = rng.normal(size=(6, 3 * 3 * 2)), rng.integers(10, size=6)
        for name, variant in networks.VARIANTS.items():
            model = networks.network(variant, (3, 2), 10, 20, 1, (2, 4), np.float64)
            for _ in range(3):
                model.step()  # so that a curriculum has begun

            def evaluate(model=model):
                for number, noise in enumerate(networks.noises(model)):
                    noise.key = KEY.fold_in(number)
                    if hasattr(noise, "rates"):
                        noise._mean, noise._inputs = None, 0  # the same rates in every evaluation
                loss, gradients = model.loss_and_gradients(x, labels)
                return loss, [g.copy() for g in gradients]

            if name == "adaptive":  # rates follow the weights, and no gradient is taken through them
                fix_rates(networks.noises(model), evaluate)
            check_gradients(model.parameters, evaluate)

    def test_evaluation_repeats(self, program, networks, rng):
        x = rng.normal(size=(5, 4 * 4 * 3)).astype(np.float32)
        for name, variant in networks.VARIANTS.items():
            model = networks.network(variant, (4, 3), 10, 20, 1)
            model.step()
            assert check_evaluation(model, x) == (not name.startswith("none"))
            assert len(networks.noises(model)) == (0 if name.startswith("none") else 2)

    def test_noises_are_those_of_their_names(self, networks):
        x = np.ones((64, 4, 4, 3), np.float32)
        y = {}
        for name in ("Bernoulli", "spatial", "temporal", "DropBlock"):
            noise = networks.VARIANTS[name].noise(networks.Place(0.4, KEY, 10, 100))
            y[name] = noise.forward(x, True)
            np.testing.assert_array_equal(noise.backward(x), y[name])
            units = noise.forward(np.ones((500, 1, 1, 40), np.float32), True)  # maps of one pixel
            assert abs((units == 0).mean() - 0.4) < 5 * np.sqrt(0.24 / units.size)
        assert (y["spatial"] == y["spatial"][:, :1, :1]).all()
        assert (y["temporal"] == y["temporal"][:, :1]).all()
        assert not (y["temporal"] == y["temporal"][:, :, :1]).all()
        for name in ("Bernoulli", "DropBlock"):
            assert not (y[name] == y[name][:, :1]).all()

    def test_squares(self, program):
        x = np.arange(2 * 16).reshape(2, 16)
        assert program.squares(x, 2)[0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]

    def test_scores(self, program):
        labels = np.array([0, 0, 1, 1])
        sure = np.array([[1.0, 0.0]] * 4)
        right, likelihood, gap = program.scores(sure, labels)
        assert (right, gap) == (50, 50)
        assert likelihood == pytest.approx(np.log(1e30) / 2)
        calibrated = np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1])
        assert program.scores(*calibrated)[0] == 75
        assert program.scores(*calibrated)[2] == pytest.approx(0, abs=1e-12)
        half = np.array([[0.6, 0.4], [0.6, 0.4], [0.9, 0.1], [0.9, 0.1]])  # right: .5 and 1 of them
        assert program.calibration_error(half, np.array([0, 1, 0, 0])) == pytest.approx(10)

    def test_holm(self, program):
        np.testing.assert_allclose(program.holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
        np.testing.assert_allclose(program.holm([0.9, 0.8]), [1, 1])

    def test_differences(self, program):
        assert program.paired_p(np.array([1.0, 1.1, 0.9, 1.0, 1.05])) < 0.001
        assert program.paired_p(np.array([1.0, -1.1, 0.9, -1.0, 0.3])) > 0.5
        assert program.paired_p(np.zeros(5)) == 1

    def test_program(self, program, networks, png, capsys):
        options = ["--data", "digits", "--epochs", "1", "--seeds", "2", "--validate"]
        program.main([*options, "--out", str(png)])
        printed = capsys.readouterr().out
        record = check_written(png, "compare_dropouts", printed, "Scores")
        for table in record["tables"]:
            assert [row[0] for row in table["rows"]] == list(networks.VARIANTS)
        assert len(record["tables"]) == 3
        assert "Holm" in record["notes"][0]


def fix_rates(noises, evaluate):
    """Have adaptive layers drop at the rates of the first forward."""
    evaluate()
    for noise in noises:
        rates = noise.rates

        def drop(x, forward, out, rates=rates):
            return fd.dropout(x, rates, forward.key, out=out)

        noise._drop = drop


class TestDataSize:
    @pytest.fixture
    def program(self, example):
        return example("data_size")

    def test_gradients_and_evaluation(self, program, rng):
        model = program.network((5, 6, 4, 3), program.RATES, 1, np.float64)
        for b in model.parameters[1::2]:
            b += rng.normal(size=b.shape) / 4  # a unit whose inputs are all dropped is else at ReLU's kink
        x, labels = rng.normal(size=(8, 5)), rng.integers(3, size=8)

        def evaluate():
            for number, layer in enumerate(model.layers[::3]):
                layer.key = KEY.fold_in(number)
            return model.loss_and_gradients(x, labels)

        check_gradients(model.parameters, evaluate)
        assert check_evaluation(model, x)

    def test_parts_of_the_data(self, program, example):
        data = example("parts").load("digits")
        one, same, other = (program.part(data, 100, seed) for seed in (0, 0, 1))
        assert len(one.x_train) == len(one.y_train) == 100
        assert np.bincount(one.y_train).min() >= 9
        np.testing.assert_array_equal(one.x_train, same.x_train)
        assert not np.array_equal(one.x_train, other.x_train)
        assert one.x_test is data.x_test
        assert program.part(data, len(data.x_train), 0) is data

    def test_updates(self, program):
        assert program.epochs(100, 1600) == 800
        assert program.epochs(4000, 1601) == 21

    def test_program(self, program, png, capsys):
        options = ["--sizes", "20", "60", "--steps", "20", "--width", "16", "--seeds", "2"]
        program.main([*options, "--out", str(png)])
        record = check_written(png, "data_size", capsys.readouterr().out, "Errors and gains")
        (table,) = record["tables"]
        assert [row[0] for row in table["rows"]] == ["20", "60"]
        without, dropped, gain = (float(cell.split()[0]) for cell in table["rows"][0][1:])
        assert gain == pytest.approx(dropped - without, abs=0.011)

    def test_a_size_that_there_is_not(self, program, png, capsys):
        with pytest.raises(SystemExit):
            program.main(["--sizes", "5000", "--out", str(png)])
        assert "from 10 to 4000, got [5000]" in capsys.readouterr().err


class TestConvolutional:
    @pytest.fixture
    def program(self, example):
        before = torch.get_num_threads()
        yield example("mnist_cnn")
        torch.set_num_threads(before)

    def test_layers(self, program):
        model = program.network("fastdrop", 0)
        assert [m.p for m in model if hasattr(m, "p")] == [0.25, 0.25, 0.5]
        assert [tuple(w.shape) for w in model.parameters()][::2] == [
            (32, 1, 3, 3),
            (64, 32, 3, 3),
            (128, 1600),
            (10, 128),
        ]
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)

    def test_the_same_weights_whatever_the_dropout(self, program):
        models = [program.network(name, 3) for name in program.DROPOUTS]
        for weights in zip(*(m.parameters() for m in models), strict=True):
            assert all(torch.equal(weights[0], w) for w in weights)

    def test_gradients(self, program):
        """Derivatives along random directions, which all parameters have a part in."""
        model = program.network("fastdrop", 0, 10, (3, 4)).double()
        x, y = torch.randn(5, 1, 10, 10, dtype=torch.float64), torch.arange(5)

        def loss():
            for number, layer in enumerate(m for m in model if hasattr(m, "p")):
                layer.key = KEY.fold_in(number)
            return program.cross_entropy(model(x), y)

        parameters = list(model.parameters())
        gradients = torch.autograd.grad(loss(), parameters)
        assert all(g.abs().max() > 1e-3 for g in gradients)
        for _ in range(5):
            direction = [torch.randn_like(w) for w in parameters]
            ends = []
            with torch.no_grad():
                for step in (1e-6, -2e-6, 1e-6):
                    for w, d in zip(parameters, direction, strict=True):
                        w += step * d
                    ends.append(float(loss()))
            expected = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
            assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(expected, rel=1e-6, abs=1e-8)

    def test_evaluation_repeats(self, program):
        model = program.network("fastdrop", 0, 10, (3, 4))
        x = torch.randn(5, 1, 10, 10)
        model.train()
        assert not torch.equal(model(x), model(x))
        model.eval()
        draws = [m.key.draw for m in model if hasattr(m, "p")]
        assert torch.equal(model(x), model(x))
        assert [m.key.draw for m in model if hasattr(m, "p")] == draws == [2, 2, 2]

    def test_training_repeats(self, program):
        torch.set_num_threads(1)
        data = small(program)
        run, again = (program.train(data, ["none", "fastdrop"], 0, 1) for _ in range(2))
        for name in run:
            assert run[name].accuracies == again[name].accuracies
        assert run["none"] != run["fastdrop"]

    def test_parts(self, program):
        data = program.load(None)
        assert {name: len(y) for name, (_, y) in data.items()} == dict(
            zip(program.PARTS, (3600, 400, 1000), strict=True)
        )
        for x, y in data.values():
            assert x.shape[1:] == (1, 28, 28)
            assert (float(x.min()), float(x.max())) == (0, 1)
            assert torch.bincount(y).float().std() < 0.02 * len(y)

    def test_program_on_idx_files(self, program, tmp_path, png, capsys):
        write_mnist(tmp_path)
        options = ["--data", str(tmp_path), "--epochs", "1", "--seeds", "2"]
        program.main([*options, "--out", str(png)])
        record = check_written(png, "mnist_cnn", capsys.readouterr().out, "Learning curves")
        (table,) = record["tables"]
        assert "Images: 90 to train, 10 to validation, 20 to test" in table["title"]
        assert [row[0] for row in table["rows"]] == list(program.DROPOUTS)

    @pytest.mark.parametrize("end", ["", ".gz"])
    @pytest.mark.parametrize("code", [8, 9, 11, 12, 13, 14])
    def test_idx(self, program, tmp_path, end, code):
        numbers = np.arange(24).reshape(2, 3, 4)
        path = tmp_path / f"a{end}"
        write_idx(path, numbers.astype(program.IDX_TYPES[code]), code)
        read = program.read_idx(path)
        np.testing.assert_array_equal(read, numbers)
        assert read.dtype == program.IDX_TYPES[code]

    def test_bad_files(self, program, tmp_path):
        (tmp_path / "a").write_bytes(b"PNG")
        with pytest.raises(ValueError, match="must be an IDX file, got the first bytes b'PNG'"):
            program.read_idx(tmp_path / "a")
        with pytest.raises(SystemExit, match=r"needs one of train-images-idx3-ubyte, .*\.gz in"):
            program.load(tmp_path)


def small(program):
    """A few random images for each part."""
    rng = np.random.default_rng(0)
    return {
        part: program.tensors(rng.integers(256, size=(100, 784)), rng.integers(10, size=100))
        for part in program.PARTS
    }


def write_idx(path, numbers, code):
    raw = bytes([0, 0, code, numbers.ndim]) + np.array(numbers.shape, ">u4").tobytes() + numbers.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def write_mnist(folder):
    """Four files with 100 and 20 images, one spelling each."""
    rng = np.random.default_rng(0)
    names = {
        ("train-images-idx3-ubyte", "train-labels-idx1-ubyte.gz"): 100,
        ("t10k-images.idx3-ubyte.gz", "t10k-labels.idx1-ubyte"): 20,
    }
    for (images, labels), n in names.items():
        write_idx(folder / images, rng.integers(256, size=(n, 28, 28)).astype(np.uint8), 8)
        write_idx(folder / labels, (np.arange(n) % 10).astype(np.uint8), 8)
