"""Masks of listed rows, of rows of any lengths, and of single indices, against windows and the oracle."""

import copy
import hashlib
import pickle
from itertools import pairwise

import ml_dtypes
import naive
import numpy as np
import pytest
from arrays import normal, same_bits
from every_noise import arguments, is_plain

import fastdrop as fd
from fastdrop._arrays.listed import RAGGED, Runs, Scattered
from fastdrop._arrays.plan import layout_of, window_given
from fastdrop._noises._noise import NOISES

KEY = fd.Key(42)
IDS = [9, 0, 4, 9, 1 << 20]
ROWS = [noise for noise in NOISES.values() if noise.takes("rows")]
PLAIN = [noise for noise in ROWS if is_plain(noise) and noise.takes("indices")]
SHARED = [noise for noise in PLAIN if noise.takes("shared_axes")]

by_rows = pytest.mark.parametrize("noise", ROWS, ids=lambda noise: noise.name)
plain = pytest.mark.parametrize("noise", PLAIN, ids=lambda noise: noise.name)


def at_row(shape, row):
    """The window of one row of an array with a million rows or so."""
    return ((max(IDS) + 1, *shape[1:]), (row, *[0] * (len(shape) - 1)))


def test_every_function_with_a_window_takes_rows_too():
    assert [
        noise.name for noise in NOISES.values() if noise.takes("window") and not noise.takes("rows")
    ] == []
    assert len(ROWS) > 12
    assert len(PLAIN) > 8


@by_rows
@pytest.mark.parametrize("length", [3, 40, 1100])  # by single draws, parts of tiles, and whole tiles
def test_rows(noise, length):
    given = arguments(noise, (len(IDS), length))
    if noise.name == "drop_connect":
        given["x"] = normal(len(IDS), 5)
    arrays = {name: a for name, a in given.items() if isinstance(a, np.ndarray) and len(a) == len(IDS)}
    arrays = {name: a for name, a in arrays.items() if a.ndim == 2 and name != "weight"}
    y = noise.function(**given, key=KEY, rows=IDS)
    for i, row in enumerate(IDS):
        own = {name: a[i : i + 1] for name, a in arrays.items()}
        window = at_row(given[noise.first].shape, row)
        one = noise.function(**given | own, key=KEY, window=window)
        # The products of attention are added up in an order that depends on how many queries there are.
        assert (
            np.allclose(y[i], one, atol=1e-4) if noise.name == "attention" else same_bits(y[i : i + 1], one)
        )
    assert not same_bits(y, noise.function(**given, key=KEY)) or not y.any()  # relu may leave nothing


def in_float64():
    """Every noise, all but one of each kind with as many arrays marked slow."""
    seen = set()
    for noise in PLAIN:
        kind = (noise.kind, noise.by_element, len(noise.like))
        yield pytest.param(noise.name, np.float64, marks=[pytest.mark.slow] if kind in seen else [])
        seen.add(kind)


# Every noise in float64, and in the other dtypes one of each kind: kept or dropped, with a density, of pairs.
OTHER_DTYPES = [
    *in_float64(),
    *((name, dtype) for name in ("dropout", "gaussian_noise") for dtype in (np.float16, np.complex64)),
    ("zoneout", ml_dtypes.bfloat16),
    ("gaussian_dropout", np.complex128),
]


@pytest.mark.parametrize(("name", "dtype"), OTHER_DTYPES)
def test_dtypes(name, dtype):
    noise = NOISES[name]
    given = arguments(noise, (len(IDS), 70), dtype)
    y = noise.function(**given, key=KEY, rows=IDS)
    few = {name: a[:, ::14] if isinstance(a, np.ndarray) else a for name, a in given.items()}
    index = np.array(IDS)[:, None] * 70 + np.arange(0, 70, 14)
    assert same_bits(noise.function(**few, key=KEY, indices=index), y[:, ::14])
    for i, row in enumerate(IDS):
        own = {name: a[i : i + 1] if isinstance(a, np.ndarray) else a for name, a in given.items()}
        assert same_bits(y[i : i + 1], noise.function(**own, key=KEY, window=at_row((5, 70), row)))


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic(), fd.Key(3, (1 << 40) + 5)], ids=str)
def test_dropout_of_indices_by_the_oracle(p, key):
    index = np.array([5, 1023, 1024, 5, 1 << 40, (1 << 63) - 1, 77, 78, 79, 8, 1025])
    # Tiles that are drawn whole: for some of its elements, or for so many that all are decided.
    near, many = np.arange(3072, 3072 + 1000, 50), np.arange(6144, 6144 + 1000, 5)
    index = np.concatenate([index, near, index[:3], many, near[::-1]])
    expected = [2**32 / (2**32 - naive.threshold(p)) if p < 1 else 0.0] * np.array(
        [naive.kept(int(i), p, key.seed, key.draw) for i in index]
    )
    assert same_bits(fd.dropout(np.ones(index.size), p, key, indices=index), expected)
    kept = expected > 0 if p < 1 else expected != expected
    assert (fd.keep_mask(index.size, p, key, indices=index) == kept).all()


@pytest.mark.parametrize("p", [1e-9, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", [KEY, KEY.antithetic(), fd.Key(3, (1 << 40) + 5)], ids=str)
@pytest.mark.parametrize("length", [16, 100, 1024, 1500])
def test_dropout_of_rows_in_the_fewest_steps(p, dtype, key, length):
    """One call of a kernel does rows with numbers of int64; with others they are listed first."""
    ids = np.array([*IDS, (1 << 63) // length - 1])
    x, out = normal(6, length, dtype=dtype), np.empty((6, length), dtype)
    assert fd.dropout(x, p, key, rows=ids, out=out) is out
    assert same_bits(out, fd.dropout(x, p, key, rows=ids.astype(np.uint64)))
    for i, row in enumerate(ids[:4]):
        window = ((row + 1, length), (row, 0))
        assert same_bits(out[i : i + 1], fd.dropout(x[i : i + 1], p, key, window=window))
    assert same_bits(fd.dropout_backward(x.reshape(6, 2, -1), p, key, rows=ids), out.reshape(6, 2, -1))
    strided = np.repeat(ids, 2)[::2]
    assert same_bits(fd.dropout(x, p, key, rows=strided), out)
    memory = np.zeros(6 * length + 1, np.float64)  # where x and the numbers overlap what is written
    y = memory[: 6 * length].view(dtype)[: 6 * length].reshape(6, length)
    memory.view(np.int64)[:6] = ids
    assert same_bits(fd.dropout(x, p, key, rows=memory.view(np.int64)[:6], out=y), out)


def test_normals_of_indices_by_the_oracle():
    index = np.array([0, 31, 32, 1 << 45, 7, 7, 12, 19, 27])
    expected = [naive.normal(int(i), KEY.seed, KEY.draw, 64) for i in index]
    assert np.abs(fd.normal(index.size, KEY, dtype=np.float64, indices=index) - expected).max() < 1e-14


@pytest.mark.parametrize("noise", SHARED, ids=lambda noise: noise.name)
@pytest.mark.parametrize("shared_axes", [1, -1, (1, 2), (2, 3), (1, 3)])
def test_shared_axes_beside_rows(noise, shared_axes):
    shape = (len(IDS), 3, 20, 4)
    given = arguments(noise, shape)
    y = noise.function(**given, key=KEY, rows=IDS, shared_axes=shared_axes)
    for i, row in enumerate(IDS):
        own = {name: a[i : i + 1] if isinstance(a, np.ndarray) else a for name, a in given.items()}
        options = {"window": at_row(shape, row), "shared_axes": shared_axes}
        assert same_bits(y[i : i + 1], noise.function(**own, key=KEY, **options))


@plain
@pytest.mark.parametrize("size", [7, 500])
def test_indices(noise, size):
    given = arguments(noise, (40, 60))
    whole = noise.function(**given, key=KEY)
    rng = np.random.default_rng(1)
    row, column = rng.integers(40, size=size), rng.integers(60, size=size)
    order = np.lexsort((column, row))
    for i, j in ((row, column), (row[order], column[order])):
        own = {name: a[i, j] if isinstance(a, np.ndarray) else a for name, a in given.items()}
        assert same_bits(noise.function(**own, key=KEY, indices=((40, 60), (i, j))), whole[i, j])
        assert same_bits(noise.function(**own, key=KEY, indices=i * 60 + j), whole[i, j])


# local_reparameterization takes a variance without axes as a number, whose term isn't rounded by itself.
@pytest.mark.parametrize("noise", [n for n in PLAIN if n.name[:5] != "local"], ids=lambda n: n.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_an_index_of_an_array_without_axes(noise, dtype):
    given = arguments(noise, (1,), dtype)
    for index in range(4):
        y = noise.function(**given, key=KEY, indices=[index])
        own = {name: a.reshape(()) if isinstance(a, np.ndarray) else a for name, a in given.items()}
        assert same_bits(noise.function(**own, key=KEY, indices=index), y.reshape(()))


@pytest.mark.parametrize("noise", [n for n in PLAIN if n.by_element], ids=lambda noise: noise.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rates_of_their_own(noise, dtype):
    given = arguments(noise, (40, 60), dtype)
    by_feature, by_sample = np.linspace(0.01, 0.9, 60), np.linspace(0.01, 0.9, 40)[:, None]

    def found(at, p, **where):
        own = {name: a[at] if isinstance(a, np.ndarray) else a for name, a in given.items()}
        return noise.function(**own | {noise.rate: p}, key=KEY, **where)

    whole, at = found(..., by_feature), np.random.default_rng(1).integers((40, 60), size=(300, 2)).T
    assert same_bits(found(tuple(at), by_feature[at[1]], indices=((40, 60), tuple(at))), whole[*at])
    ids = np.array([3, 39, 0])
    assert same_bits(found(ids, by_feature, rows=ids), whole[ids])
    assert same_bits(found(ids, by_sample[ids], rows=ids), found(..., by_sample)[ids])


@plain
@pytest.mark.parametrize("lengths", [[1, 0, 2, 5, 0], [100, 0, 3000, 1, 70]])
def test_ragged_rows(noise, lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    given, ids = arguments(noise, (offsets[-1],)), [7, 1, (1 << 31) - 1, 0, 7]
    for rows in (None, ids):
        y = noise.function(**given, key=KEY, rows=rows, offsets=offsets)
        for r, (a, b) in enumerate(pairwise(offsets)):
            own = {name: x[None, a:b] if isinstance(x, np.ndarray) else x for name, x in given.items()}
            number = r if rows is None else rows[r]
            window = ((number + 1, RAGGED), (number, 0))
            assert same_bits(y[None, a:b], noise.function(**own, key=KEY, window=window))


def test_a_ragged_row_does_not_depend_on_its_neighbours():
    one = fd.dropout(np.ones(50), 0.5, KEY, offsets=[0, 20, 50])
    other = fd.dropout(np.ones(37), 0.5, KEY, offsets=[0, 7, 37])
    assert same_bits(one[20:], other[7:])


@plain
def test_layouts_and_threads(noise, threads_set_back):
    """Arrays that kernels can't take as they lie, and sizes that threads share."""
    ids = np.arange(700)[::-1] * 3
    given = arguments(noise, (700, 1800))
    fd.set_num_threads(1)
    y = noise.function(**given, key=KEY, rows=ids)
    strided = {n: np.asfortranarray(a) if isinstance(a, np.ndarray) else a for n, a in given.items()}
    few = {n: a[:9, ::2] if isinstance(a, np.ndarray) else a for n, a in given.items()}
    index = ids[:9, None] * 1800 + np.arange(0, 1800, 2)
    fd.set_num_threads(2)
    assert same_bits(noise.function(**given, key=KEY, rows=ids), y)
    assert same_bits(noise.function(**strided, key=KEY, rows=ids), y)
    assert same_bits(noise.function(**few, key=KEY, indices=index), y[:9, ::2])
    flat = {n: a.ravel() if isinstance(a, np.ndarray) else a for n, a in given.items()}
    index = (ids[:, None] * 1800 + np.arange(1800)).ravel()
    assert same_bits(noise.function(**flat, key=KEY, indices=index), y.ravel())


@pytest.mark.parametrize(
    "noise", [n for n in ROWS if n.backward and n.name != "embedding_dropout"], ids=lambda n: n.name
)
def test_backward(noise):
    from every_noise import backward_arguments

    ids = IDS[:4]
    given = arguments(noise, (4, 30))
    if noise.name == "drop_connect":
        given["x"] = normal(4, 5)
    y = noise.function(**given, key=KEY, rows=ids)
    g = normal(*y.shape, seed=4)
    found = noise.backward(**backward_arguments(noise, given, g), key=KEY, rows=ids)
    found = found[0] if isinstance(found, tuple) else found
    for i, row in enumerate(ids):
        mapped = {n for n, a in given.items() if np.ndim(a) == 2 and len(a) == 4 and n != "weight"}
        own = {n: a[i : i + 1] if n in mapped else a for n, a in given.items()}
        window = at_row(given[noise.first].shape, row)
        one = noise.backward(**backward_arguments(noise, own, g[i : i + 1]), key=KEY, window=window)
        one = (one[0] if isinstance(one, tuple) else one)[0]
        if noise.name in ("attention", "drop_connect"):
            # Their products are added up in an order that depends on how many rows there are.
            np.testing.assert_allclose(found[i], one, rtol=1e-5, atol=1e-5)
        else:
            assert same_bits(found[i], one)


def test_pieces_that_threads_share(in_pieces_of):
    x, ids = normal(30, 700), np.arange(30)[::-1] * 3
    offsets = np.array([0, 5, 5, 9000, 21000])

    def results():
        options = {"rows": ids}, {"rows": ids.astype(np.uint64)}
        found = [f(x, *a, 0.3, KEY, **o) for f, *a in ((fd.dropout,), (fd.dropout_add, x)) for o in options]
        return [*found, fd.dropout(x.ravel(), 0.3, KEY, offsets=offsets)]

    expected = results()
    in_pieces_of(999, 2)
    assert all(map(same_bits, results(), expected))


HOSTILE = [
    ({"rows": [0, 1, -1]}, ValueError, r"rows must be in \[0, \d+\), got -1"),
    ({"rows": [0, 1, 1 << 61]}, ValueError, r"rows must be in \[0, \d+\), got 2305843009213693952"),
    ({"rows": [0, 1, 1 << 64]}, ValueError, r"rows must be"),
    ({"rows": [0, 1, 1 << 70]}, ValueError, r"rows must be below 2\*\*63"),
    ({"rows": slice(2, 5)}, TypeError, r"rows must be integers, got a slice; use np\.arange\(2, 5, 1\)$"),
    ({"indices": slice(None)}, TypeError, r"got a slice; use np\.arange\(0, len\(x\), 1\)$"),
    ({"rows": [0.0, 1.0, 2.0]}, TypeError, "rows must be integers, got float64"),
    ({"rows": [True, False, True]}, TypeError, "rows must be integers, got bool"),
    ({"rows": ["a", "b", "c"]}, TypeError, "rows must be integers, got"),
    ({"rows": [None, 1, 2]}, TypeError, "rows must be integers, got object"),
    ({"rows": [0, 1]}, ValueError, r"rows must have the shape \(3,\), got \(2,\)"),
    ({"rows": [[0, 1, 2]]}, ValueError, r"rows must have the shape \(3,\), got \(1, 3\)"),
    ({"rows": 3}, ValueError, r"rows must have the shape \(3,\), got \(\)"),
    (
        {"rows": np.ma.masked_array([0, 1, 2], [0, 1, 0])},
        TypeError,
        "rows must be integers, got a masked array",
    ),
    ({"rows": [0, 1, 2], "shared_axes": 0}, ValueError, "rows needs a first axis whose elements have"),
    ({"rows": [0, 1, 2], "window": ((9, 4), (0, 0))}, ValueError, "leave out window"),
    (
        {"rows": [0, 1, 2], "indices": np.zeros((3, 4), int)},
        ValueError,
        "indices must be given alone, got rows too",
    ),
    (
        {"offsets": [0, 12], "indices": np.zeros((3, 4), int)},
        ValueError,
        "got offsets too; leave out offsets",
    ),
    ({"indices": np.zeros(3, int)}, ValueError, r"indices must have the shape \(3, 4\), got \(3,\)"),
    ({"indices": np.full((3, 4), -1)}, ValueError, r"indices must be in \[0, 9223372036854775808\), got -1"),
    ({"indices": np.zeros((3, 4))}, TypeError, "indices must be integers, got float64"),
    (
        {"indices": np.zeros((3, 4), int), "shared_axes": 1},
        ValueError,
        "indices needs a draw for each element",
    ),
    ({"indices": (np.zeros((3, 4), int),) * 2}, TypeError, "indices must be flat integers, or"),
    ({"indices": ((5, 5), [0, 1])}, TypeError, "indices must be flat integers, or"),
    ({"indices": ((5,), (np.full((3, 4), 5),))}, ValueError, r"axis 0 of indices must be in \[0, 5\), got 5"),
    ({"indices": ((5, 5), (np.zeros((3, 4), int),))}, ValueError, "an array for each axis, got"),
    ({"offsets": [0, 3]}, ValueError, "offsets needs a flat array, got 2 axes"),
]


@pytest.mark.parametrize(("options", "error", "message"), HOSTILE, ids=[m for *_, m in HOSTILE])
def test_what_is_refused(options, error, message):
    for function in (fd.dropout, fd.gaussian_dropout, fd.alpha_dropout):
        out = np.full((3, 4), 7.0)
        with pytest.raises(error, match=message):
            function(np.ones((3, 4)), 0.5, KEY, out=out, **options)
        assert (out == 7).all()
    if options.keys() == {"rows"}:  # of rows so long that one call of a kernel does them
        out = np.full((3, 40), 7.0)
        with pytest.raises(error, match=message):
            fd.dropout(np.ones((3, 40)), 0.5, KEY, out=out, **options)
        assert (out == 7).all()


@pytest.mark.parametrize(
    ("offsets", "rows", "message"),
    [
        ([0, 5], None, "offsets must rise from 0 to x's size 6, got"),
        ([1, 6], None, "offsets must rise"),
        ([0, 4, 3, 6], None, "offsets must rise"),
        ([], None, "offsets must rise"),
        ([[0, 6]], None, "offsets must rise"),
        ([0, 6], [1, 2], r"rows must have the shape \(1,\), got \(2,\)"),
        ([0, 6], [1 << 31], r"rows must be in \[0, 2147483648\), got 2147483648"),
    ],
)
def test_offsets_that_are_refused(offsets, rows, message):
    with pytest.raises(ValueError, match=message):
        fd.dropout(np.ones(6), 0.5, KEY, offsets=offsets, rows=rows)
    with pytest.raises(TypeError, match="offsets must be integers, got float64"):
        fd.dropout(np.ones(6), 0.5, KEY, offsets=[0.0, 6.0])
    much = np.broadcast_to(np.float32(1), (1 << 32) + 1)
    with pytest.raises(ValueError, match=r"rows of at most 2\*\*32 elements, got one of 4294967297"):
        fd.dropout(much, 0.5, KEY, offsets=[0, much.size])


def test_edges():
    assert fd.dropout(np.ones((0, 4)), 0.5, KEY, rows=[]).shape == (0, 4)
    assert fd.dropout(np.ones((2, 0)), 0.5, KEY, rows=[1, 5]).shape == (2, 0)
    assert fd.dropout(np.ones(0), 0.5, KEY, offsets=[0]).shape == (0,)
    assert fd.dropout(np.ones(0), 0.5, KEY, indices=[]).shape == (0,)
    assert fd.dropout(np.ones(()), 0.5, KEY, indices=5).shape == ()
    with pytest.raises(ValueError, match="rows needs an array with a first axis"):
        fd.dropout(np.ones(()), 0.5, KEY, rows=[])
    last = (1 << 63) // 4 - 1
    for dtype in (np.int64, np.uint64):
        y = fd.dropout(np.ones((1, 4)), 0.5, KEY, rows=np.array([last], dtype))
        assert same_bits(y, fd.dropout(np.ones((1, 4)), 0.5, KEY, window=((last + 1, 4), (last, 0))))
    with pytest.raises(ValueError, match="rows must be in"):
        fd.dropout(np.ones((1, 4)), 0.5, KEY, rows=[last + 1])


def test_kinds_of_places():
    """Long rows are walked by kernels as rows; short ones are drawn one by one."""

    def place(shape, **given):
        return layout_of(shape, False, (), window_given(None, **given)).place

    assert isinstance(place((3, 500), rows=[0, 1, 2]), Runs)
    assert isinstance(place((3, 5), rows=[0, 1, 2]), Scattered)
    assert isinstance(place((500,), offsets=[0, 200, 500]), Runs)
    assert isinstance(place((5,), offsets=[0, 2, 5]), Scattered)


def test_cutting_runs():
    runs = Runs(np.array([0, 3, 3, 7, 8]), np.array([10, 50, 20, 90]))
    whole = [*range(10, 13), *range(20, 24), 90]
    for first in range(8):
        for last in range(first, 9):
            cut, found = runs.cut(first, last), []
            for a, b, start in cut.blocks():
                assert len(found) == a
                found += range(start, start + b - a)
            assert found == whole[first:last]
    assert runs.even()[0].tolist() == whole
    assert Runs(np.array([0, 2, 4]), np.array([8, 4])).even()[1] == 2


@pytest.mark.parametrize(
    "drop", [fd.Dropout(0.5, rng=1), fd.GaussianDropout(0.3, rng=1), fd.DropPath(0.5, rng=1)]
)
def test_layers(drop):
    x, ids = normal(5, 30), np.array(IDS)
    key, y = drop.key, drop(x, rows=ids)
    restored, copied = pickle.loads(pickle.dumps(drop)), copy.deepcopy(drop)
    assert b"Listed" not in pickle.dumps(drop)
    ids[:] = 0  # a layer keeps its own copy
    g = normal(5, 30, seed=2)
    found = [each.backward(g) for each in (drop, restored, copied)]
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
    fresh = type(drop)(drop.p, rng=key)
    assert same_bits(fresh(x, rows=IDS), y)
    assert same_bits(fresh.backward(g), found[0])


class Numbers:
    """Integers that are another library's."""

    def __init__(self, numbers):
        self.numbers = numbers

    def __array__(self, dtype=None, copy=None):
        return self.numbers.copy() if copy else self.numbers


@pytest.mark.parametrize("kind", [np.array, list, lambda ids: Numbers(np.array(ids))])
@pytest.mark.parametrize("face", ["layer", "autograd", "torch"])
def test_backward_after_the_caller_has_changed_the_numbers(face, kind):
    x, g, ids = normal(5, 30), normal(5, 30, seed=2), kind(IDS)
    indices = np.arange(150).reshape(5, 30) // 30, np.arange(150).reshape(5, 30) % 30
    expected = [fd.dropout_backward(g, 0.5, KEY, rows=IDS), fd.dropout_backward(g, 0.5, KEY)]
    given = [{"rows": ids}, {"indices": ((5, 30), indices)}]
    backward = [backward_of(face, x, g, options) for options in given]
    getattr(ids, "numbers", ids)[0] = 1
    indices[0][:] = 0
    for back, right in zip(backward, expected, strict=True):
        assert same_bits(back(), right)


def backward_of(face, x, g, options):
    """A dropout's backward, after its forward."""
    if face == "layer":
        drop = fd.Dropout(0.5, rng=KEY)
        drop(x, **options)
        return lambda: drop.backward(g)
    if face == "autograd":
        pytest.importorskip("autograd")
        from autograd import make_vjp

        import fastdrop.autograd as fda

        vjp, _ = make_vjp(lambda x: fda.dropout(x, 0.5, KEY, **options))(x)
        return lambda: vjp(g)
    torch = pytest.importorskip("torch")
    import fastdrop.torch as fdt

    t = torch.tensor(x, requires_grad=True)
    y = fdt.dropout(t, 0.5, KEY, **options)
    return lambda: (y.backward(torch.from_numpy(g)), t.grad.numpy())[1]


@pytest.mark.parametrize("function", [fd.dropout, fd.gaussian_dropout])
def test_an_output_in_which_the_indices_lie(function):
    memory = np.zeros(101)
    x, index = normal(100, dtype=np.float64), np.random.default_rng(1).integers(1 << 40, size=100)
    expected = function(x, 0.5, KEY, indices=index)
    memory.view(np.int64)[:100] = index
    y = function(x, 0.5, KEY, indices=memory.view(np.int64)[:100], out=memory[1:])
    assert same_bits(y, expected)


def test_layers_of_other_kinds():
    x = normal(5, 6, 30, 4)
    y = fd.SpatialDropout2D(0.5, rng=3)(x, rows=IDS)
    assert same_bits(y, fd.dropout(x, 0.5, fd.Key(3), rows=IDS, shared_axes=(2, 3)))
    zone = fd.Zoneout(0.5, rng=3)
    assert same_bits(zone(x, -x, rows=IDS), fd.zoneout(x, -x, 0.5, fd.Key(3), rows=IDS))
    zone.backward(x)
    standout = fd.StandoutDropout(rng=3)
    expected = fd.standout_dropout(x, -x, fd.Key(3), rows=IDS)
    assert same_bits(standout(x, -x, rows=IDS), expected)
    assert same_bits(standout.backward(x), expected)
    concrete = fd.ConcreteDropout(0.3, rng=3)
    assert same_bits(concrete(x, rows=IDS), fd.concrete_dropout(x, concrete.logit, fd.Key(3), rows=IDS))
    concrete.backward(x)
    flat = normal(50)
    layer = fd.Dropout(0.5, rng=3)
    assert same_bits(layer(flat, offsets=[0, 20, 50]), fd.dropout(flat, 0.5, fd.Key(3), offsets=[0, 20, 50]))
    assert same_bits(layer.backward(flat), fd.dropout(flat, 0.5, fd.Key(3), offsets=[0, 20, 50]))


def test_one_digest_for_any_batches():
    """Shuffled, in batches of any sizes, each sample has its mask."""
    data, rng = normal(300, 33), np.random.default_rng(0)
    digests = set()
    for size in (300, 64, 7, 1):
        found = np.empty_like(data)
        order = rng.permutation(300)
        for first in range(0, 300, size):
            ids = order[first : first + size]
            found[ids] = fd.dropout(data[ids], 0.3, KEY, rows=ids)
        digests.add(hashlib.md5(found.tobytes()).hexdigest())
    assert len(digests) == 1
    assert digests == {hashlib.md5(fd.dropout(data, 0.3, KEY).tobytes()).hexdigest()}


def test_sparse_matrices_have_one_mask_for_any_storage():
    sparse = pytest.importorskip("scipy.sparse")
    dense = normal(30, 80) * (np.random.default_rng(1).random((30, 80)) < 0.1)
    expected = fd.dropout(dense, 0.5, KEY)
    for kind in (sparse.csr_array, sparse.csc_array, sparse.coo_array):
        matrix = kind(dense)
        coo = matrix.tocoo()
        coo.data = fd.dropout(coo.data, 0.5, KEY, indices=(coo.shape, coo.coords))
        assert same_bits(coo.toarray(), np.where(dense != 0, expected, 0))


def test_autograd():
    pytest.importorskip("autograd")
    import autograd.numpy as anp
    from autograd import grad

    import fastdrop.autograd as fda

    x = normal(5, 30, dtype=np.float64)
    for function in (fda.dropout, fda.gaussian_dropout, fda.alpha_dropout):
        g = grad(lambda x, f=function: anp.sum(f(x, 0.3, KEY, rows=IDS) * x))(x)
        numpy = getattr(fd, function.__name__)
        back = getattr(fd, function.__name__ + "_backward")(x, 0.3, KEY, rows=IDS)
        assert np.abs(g - numpy(x, 0.3, KEY, rows=IDS) - back).max() < 1e-12
    ids = np.arange(150).reshape(5, 30) * 7
    g = grad(lambda x: anp.sum(fda.dropout(x, 0.3, KEY, indices=ids)))(x)
    assert same_bits(g, fd.dropout(np.ones_like(x), 0.3, KEY, indices=ids))


def test_torch():
    torch = pytest.importorskip("torch")
    import fastdrop.torch as fdt

    x, ids = normal(5, 6, 40), torch.tensor(IDS)
    for name in ("dropout", "gaussian_dropout", "gaussian_noise", "alpha_dropout", "drop_path"):
        t = torch.tensor(x, requires_grad=True)
        y = getattr(fdt, name)(t, 0.3, KEY, rows=ids)
        assert same_bits(y.detach().numpy(), getattr(fd, name)(x, 0.3, KEY, rows=IDS))
        g = normal(5, 6, 40, seed=3)
        y.backward(torch.from_numpy(g))
        if name != "gaussian_noise":
            assert same_bits(t.grad.numpy(), getattr(fd, f"{name}_backward")(g, 0.3, KEY, rows=IDS))
    a, b = (torch.tensor(normal(5, 40, seed=n), requires_grad=True) for n in (1, 2))
    y = fdt.zoneout(a, b, 0.3, KEY, rows=IDS)
    assert same_bits(
        y.detach().numpy(), fd.zoneout(a.detach().numpy(), b.detach().numpy(), 0.3, KEY, rows=IDS)
    )
    y.sum().backward()
    assert (a.grad + b.grad == 1).all()
    flat = torch.from_numpy(normal(50))
    y = fdt.dropout(flat, 0.5, KEY, offsets=torch.tensor([0, 20, 50]))
    assert same_bits(y.numpy(), fd.dropout(flat.numpy(), 0.5, KEY, offsets=[0, 20, 50]))
    i, j = torch.arange(50) % 7, torch.arange(50)
    y = fdt.dropout(flat, 0.5, KEY, indices=((7, 50), (i, j)))
    assert same_bits(y.numpy(), fd.dropout(flat.numpy(), 0.5, KEY, indices=((7, 50), (i.numpy(), j.numpy()))))
    with pytest.raises(ValueError, match="rows must be in"):
        fdt.dropout(torch.ones(2, 3), 0.5, KEY, rows=[-1, 0])
    meta = torch.ones(5, 40, device="meta")
    with pytest.raises(TypeError, match="in a graph the draws can't be listed"):
        fdt.dropout(meta, 0.5, KEY, rows=IDS)
