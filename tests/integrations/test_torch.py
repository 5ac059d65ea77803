import gc
import re
import subprocess
import sys
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

from tensors import DTYPES, LAYOUTS, normal, same, to_array  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch._autograd import as_array, as_tensor  # noqa: E402

KEY = fd.Key(42, draw=7)
BLOCKS = {"block_size": 2, "shared_channels": True}
# Each function of tensors, its twin of arrays and that one's backward, with options.
TWINS = {
    "dropout": (fdt.dropout, fd.dropout, fd.dropout_backward, {}),
    "shared": (fdt.dropout, fd.dropout, fd.dropout_backward, {"shared_axes": (-1, 2)}),
    "gaussian": (fdt.gaussian_dropout, fd.gaussian_dropout, fd.gaussian_dropout_backward, {}),
    "noise": (fdt.gaussian_noise, fd.gaussian_noise, fd.gaussian_noise_backward, {}),
    "alpha": (fdt.alpha_dropout, fd.alpha_dropout, fd.alpha_dropout_backward, {"shared_axes": 1}),
    "path": (fdt.drop_path, fd.drop_path, fd.drop_path_backward, {"mode": "row"}),
    "block": (fdt.drop_block, fd.drop_block, fd.drop_block_backward, BLOCKS),
}
SHAPE = (3, 4, 5, 7)


@pytest.fixture(params=TWINS)
def twin(request):
    return TWINS[request.param]


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_backward_are_those_of_arrays_bit_for_bit(twin, dtype, p):
    function, forward, backward, options = twin
    if function is fdt.alpha_dropout and dtype.is_complex:
        pytest.skip("alpha dropout is real")
    x = normal(*SHAPE, dtype=dtype).requires_grad_()
    g = normal(*SHAPE, dtype=dtype, seed=1)
    y = function(x, p, KEY, **options)
    y.backward(g)
    assert y is not x
    assert to_array(x).dtype == DTYPES[dtype]
    assert same(y, forward(to_array(x), p, KEY, **options))
    assert same(x.grad, backward(to_array(g), p, KEY, **options))


RATES = {
    "features": np.linspace(0, 0.9, 7),
    "samples": np.array([0.0, 0.3, 0.6]).reshape(3, 1, 1, 1),
    "elements": np.resize(np.linspace(0, 0.9, 11), SHAPE).astype(np.float32),
    "one": np.array(0.3),
}


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_arrays_of_rates_are_those_of_arrays(rates, kind, layout):
    array, p = RATES[rates], kind(RATES[rates])
    x, r = (LAYOUTS[layout](normal(*SHAPE, seed=seed)).requires_grad_() for seed in range(2))
    g = normal(*SHAPE, seed=3)
    calls = [
        (fdt.dropout(x, p, KEY), fd.dropout(to_array(x), array, KEY), fd.dropout),
        (fdt.gaussian_dropout(x, p, KEY), fd.gaussian_dropout(to_array(x), array, KEY), fd.gaussian_dropout),
        (fdt.dropout_add(x, r, p, KEY), fd.dropout_add(to_array(x), to_array(r), array, KEY), fd.dropout),
        (
            fdt.bias_act_dropout(x, None, p, KEY, activation="none"),
            fd.dropout(to_array(x), array, KEY),
            fd.dropout,
        ),
    ]
    p[...] = 1  # what backward recomputes shall be of the rates as they were
    for y, expected, backward in calls:
        assert same(y, expected)
        (dx,) = torch.autograd.grad(y, x, g)
        assert same(dx, backward(to_array(g), array, KEY))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.func.jvp imports
def test_rates_and_rows_under_transforms():
    x, rates, rows = normal(4, 6), torch.linspace(0.1, 0.6, 6), torch.tensor([3, 0, 3, 1])
    own = lambda x: fdt.dropout(x, rates * 1, KEY, rows=rows * 1)  # noqa: E731
    assert torch.equal(torch.func.grad(lambda x: own(x).sum())(x) * x, own(x))
    assert torch.equal(torch.func.jvp(own, (x,), (x,))[1], own(x))
    assert torch.equal(torch.vmap(own)(x[None]), own(x)[None])
    with pytest.raises(RuntimeError, match="under vmap p can't be mapped, it must be the same for all"):
        torch.vmap(lambda x, p: fdt.dropout(x, p, KEY))(x, rates[:4])
    with pytest.raises(RuntimeError, match="under vmap rows can't be mapped, it must be the same for all"):
        torch.vmap(lambda x, rows: fdt.dropout(x, 0.5, KEY, rows=rows))(x[None], rows[None])
    with pytest.raises(TypeError, match="p gets no gradient, got one that requires it"):
        torch.func.grad(lambda p: fdt.dropout(x, p, KEY).sum())(rates)


def test_rates_by_sample_of_drop_path():
    p = torch.tensor([0.0, 1.0, 0.0])[:, None]
    assert torch.equal(fdt.drop_path(torch.ones(3, 2), p, KEY), torch.tensor([[1.0, 1], [0, 0], [1, 1]]))


def test_arrays_of_rates_where_they_have_no_place():
    x, p = normal(4), torch.full((4,), 0.3)
    for function in (fdt.dropout, fdt.gaussian_dropout):
        with pytest.raises(
            TypeError, match=r"p gets no gradient, got one that requires it; use p.detach\(\)"
        ):
            function(x, p.clone().requires_grad_(), KEY)
    for call in (
        fdt.alpha_dropout,
        lambda x, p, key: fdt.drop_block(x.view(1, 1, 2, 2), p, key, block_size=1),
    ):
        with pytest.raises(TypeError, match="p must be a real number"):
            call(x, p, KEY)
    with pytest.raises(ValueError, match=r"p must broadcast to the mask's shape \(4,\), got \(3,\)"):
        fdt.dropout(x, p[:3], KEY)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\], got 1.5"):
        fdt.dropout(x, p + 1.2, KEY)
    with pytest.raises(TypeError, match="masked array"):
        fdt.dropout(x, np.ma.masked_equal(p.numpy(), 0), KEY)


def test_everything_is_dropped_at_p_1():
    x = normal(5, 3).requires_grad_()
    for function in (fdt.dropout, fdt.alpha_dropout, fdt.drop_path):
        y = function(x, 1.0, KEY)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert not y.any()
        assert not grad.any()
    with pytest.raises(ValueError, match="p must be below 1 for Gaussian dropout"):
        fdt.gaussian_dropout(x, 1.0, KEY)


def test_nan_and_inf_vanish_where_dropped_and_survive_where_kept():
    x = torch.full((1000,), torch.nan, requires_grad=True)
    y = fdt.dropout(x, 0.5, KEY)
    y.backward(torch.full((1000,), torch.inf))
    kept = torch.from_numpy(fd.keep_mask(1000, 0.5, KEY))
    assert torch.equal(y.isnan(), kept)
    assert torch.equal(x.grad, torch.where(kept, torch.inf, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_their_memory_format_and_have_the_mask_of_the_logical_order(twin, layout, dtype):
    function, forward, backward, options = twin
    x = LAYOUTS[layout](normal(*SHAPE, dtype=dtype)).detach().requires_grad_()
    g = LAYOUTS[layout](normal(*SHAPE, dtype=dtype, seed=1))
    y = function(x, 0.3, KEY, **options)
    assert y.stride() == torch.empty_like(x).stride()
    assert same(y, forward(to_array(x), 0.3, KEY, **options))
    (dx,) = torch.autograd.grad(y, x, g)
    assert same(dx, backward(to_array(g), 0.3, KEY, **options))


def test_a_gradient_that_is_one_number_expanded():
    x = normal(*SHAPE).requires_grad_()
    fdt.dropout(x, 0.3, KEY).sum().backward()
    assert same(x.grad, fd.dropout(np.ones(SHAPE, np.float32), 0.3, KEY))


def test_views_still_to_be_conjugated_or_negated():
    z = normal(4, 6, dtype=torch.complex64)
    for x in (z.conj(), z.conj().imag, z.mT.conj()):
        assert x.is_conj() or x.is_neg()
        expected = fd.dropout(to_array(x), 0.5, KEY)
        assert same(fdt.dropout(x, 0.5, KEY), expected)
        assert fdt.dropout(x, 0.5, KEY, inplace=True) is x
        assert same(x, expected)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1)])
def test_shapes_at_the_edge(shape):
    x = torch.ones(shape, requires_grad=True)
    for function in (fdt.dropout, fdt.gaussian_dropout, fdt.alpha_dropout):
        y = function(x, 0.5, KEY)
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert y.shape == grad.shape == shape
    assert same(fdt.dropout(x, 0.5, KEY), fd.dropout(np.ones(shape, np.float32), 0.5, KEY))


def test_only_what_requires_grad_gets_a_graph():
    x = normal(8)
    assert not fdt.dropout(x, 0.5, KEY).requires_grad
    x.requires_grad_()
    with torch.no_grad():
        assert not fdt.dropout(x, 0.5, KEY).requires_grad
    with torch.inference_mode():
        assert fdt.dropout(x, 0.5, KEY).is_inference()
    assert fdt.dropout(x, 0.5, KEY).grad_fn is not None


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_in_place_writes_into_the_tensor_and_its_graph(twin, layout):
    function, forward, backward, options = twin
    x, g = normal(*SHAPE).requires_grad_(), normal(*SHAPE, seed=1)
    h = LAYOUTS[layout](x * 1)
    before = to_array(h).copy()
    y = function(h, 0.3, KEY, inplace=True, **options)
    assert y is h
    assert same(h, forward(before, 0.3, KEY, **options))
    (dx,) = torch.autograd.grad(y, x, g)
    assert same(dx, backward(to_array(g), 0.3, KEY, **options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_channels_last_has_the_bits_of_contiguous_tensors(dtype):
    """Of 16 channels and more, which stay where they are, and of fewer."""
    for channels in (3, 16, 37):
        x, g = normal(2, channels, 5, 7).to(dtype), normal(2, channels, 5, 7, seed=1).to(dtype)
        last = x.to(memory_format=torch.channels_last).requires_grad_()
        y = fdt.dropout(last, 0.3, KEY)
        assert y.stride() == last.stride()
        assert torch.equal(y, fdt.dropout(x, 0.3, KEY))
        (dx,) = torch.autograd.grad(y, last, g.to(memory_format=torch.channels_last))
        assert torch.equal(dx, fdt.dropout(g, 0.3, KEY))
        v = normal(2, channels, 5, 7)
        negated = torch.imag(torch.complex(v, v).conj())
        assert torch.equal(fdt.dropout(negated, 0.3, KEY), fdt.dropout(-v, 0.3, KEY))


def test_in_place_is_refused_as_torch_refuses_it():
    x = normal(8).requires_grad_()
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="leaf that requires grad"):
        fdt.dropout(x, 0.5, KEY, inplace=True)
    assert torch.equal(x, before)
    with torch.no_grad():
        assert fdt.dropout(x, 0.5, KEY, inplace=True) is x
    for mode in (torch.enable_grad, torch.no_grad):
        y = x.exp()  # keeps its output for backward
        with mode():
            fdt.dropout(y, 0.5, KEY, inplace=True)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    for y in (torch.ones(1, 4).expand(3, 4), torch.ones(4).as_strided((2, 3), (1, 1))):
        strides = re.escape(str(y.stride()))
        message = rf"inplace can't change a tensor whose elements share memory, got strides {strides}; use"
        with pytest.raises(ValueError, match=message):
            fdt.dropout(y, 0.5, KEY, inplace=True)


# torch's own formulas of forward derivatives use it
jit = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@jit
def test_first_and_second_derivatives_in_float64(twin):
    function, _, _, options = twin
    x = normal(*SHAPE, dtype=torch.float64)[:2, :2].requires_grad_()
    call = lambda x: function(x, 0.4, KEY, **options) ** 2  # noqa: E731
    assert torch.autograd.gradcheck(call, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, x, check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize(
    "make", [lambda: fdt.Dropout(0.5), lambda: fdt.Dropout(0.5, rng=3), fdt.GaussianDropout]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_batch_of_gradients_is_each_of_them_bit_for_bit(make, dtype):
    x, g = normal(4, 50, dtype=dtype).requires_grad_(), normal(3, 4, 50, dtype=dtype, seed=1)
    g[:, 0, :9], g[:, 1, :9] = torch.nan, torch.inf
    y = make()(x)
    together = torch.autograd.grad(y, x, g, retain_graph=True, is_grads_batched=True)[0]
    alone = [torch.autograd.grad(y, x, part, retain_graph=True)[0] for part in g]
    assert same(together, to_array(torch.stack(alone)))


def test_a_batch_of_gradients_needs_one_rate():
    x = normal(3, 2).requires_grad_()
    y = fdt.dropout(x, torch.tensor([0.1, 0.2]), KEY)
    with pytest.raises(RuntimeError, match="one number, got an array; use a loop"):
        torch.autograd.grad(y, x, torch.ones(5, 3, 2), is_grads_batched=True)


@jit
def test_transforms_of_torch_func():
    x = normal(4, 6)
    squares = lambda x: (fdt.gaussian_dropout(x, 0.5, KEY) ** 2).sum()  # noqa: E731
    noise = torch.from_numpy(fd.gaussian_dropout(np.ones((4, 6), np.float32), 0.5, KEY))
    torch.testing.assert_close(torch.func.grad(squares)(x), 2 * x * noise**2)
    torch.testing.assert_close(torch.func.hessian(squares)(x[0]), torch.diag(2 * noise.ravel()[:6] ** 2))
    rows = torch.func.vmap(lambda row: fdt.dropout(row, 0.5, KEY))(x)
    assert torch.equal(rows, torch.stack([fdt.dropout(row, 0.5, KEY) for row in x]))


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        *product(["none", "relu", "gelu", "gelu_tanh", "silu"], [torch.float32, torch.float64]),
        ("relu", torch.float16),
        ("silu", torch.bfloat16),
    ],
    ids=str,
)
def test_fused_passes_are_those_of_arrays_bit_for_bit(activation, dtype):
    x, r, g = (normal(6, 33, dtype=dtype, seed=seed) for seed in range(3))
    b = normal(33, dtype=dtype, seed=4)
    leaves = [t.requires_grad_() for t in (x, b, r)]
    arrays = [to_array(t) for t in (x, b, r, g)]
    y = fdt.bias_act_dropout(x, b, 0.3, KEY, activation=activation, residual=r)
    options = {"activation": activation}
    assert same(y, fd.bias_act_dropout(*arrays[:2], 0.3, KEY, residual=arrays[2], **options))
    dx, db, dr = torch.autograd.grad(y, leaves, g)
    expected = fd.bias_act_dropout_backward(arrays[3], *arrays[:2], 0.3, KEY, **options)
    assert same(dx, expected[0])
    assert same(db, expected[1])
    assert torch.equal(dr, g)
    z = fdt.dropout_add(x, r, 0.3, KEY)
    assert same(z, fd.dropout_add(arrays[0], arrays[2], 0.3, KEY))
    dx, dr = torch.autograd.grad(z, (x, r), g)
    assert same(dx, fd.dropout_backward(arrays[3], 0.3, KEY))
    assert torch.equal(dr, g)


@jit
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh", "silu"])
def test_derivatives_of_fused_passes_in_float64(activation):
    x, r, b = (normal(*shape, dtype=torch.float64).requires_grad_() for shape in [(3, 5), (3, 5), (5,)])

    def call(x, b, r):
        y = fdt.bias_act_dropout(x, b, 0.4, KEY, activation=activation, residual=r)
        return fdt.dropout_add(y, r, 0.4, KEY) ** 2

    assert torch.autograd.gradcheck(call, (x, b, r), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, (x, b, r), check_fwd_over_rev=True, check_batched_grad=True)
    only_bias = lambda b: fdt.bias_act_dropout(x.detach(), b, 0.4, KEY, activation=activation)  # noqa: E731
    assert torch.autograd.gradcheck(only_bias, b)
    assert torch.autograd.gradgradcheck(only_bias, b)
    alone = lambda x: fdt.bias_act_dropout(x, None, 0.4, KEY, activation=activation)  # noqa: E731
    assert torch.autograd.gradgradcheck(alone, x)


def test_fused_passes_take_what_torch_can_add_and_any_layout():
    x, r = normal(*SHAPE), normal(*SHAPE, seed=1)
    last = LAYOUTS["channels_last"]
    expected = fd.dropout_add(to_array(x), to_array(r), 0.3, KEY)
    y = fdt.dropout_add(last(x), last(r), 0.3, KEY)
    assert same(y, expected)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert fdt.dropout_add(x.bfloat16(), r, 0.3, KEY).dtype is torch.float32
    assert torch.equal(fdt.dropout_add(x, r[:1], 0.3, KEY), r[:1] + fdt.dropout(x, 0.3, KEY))
    fused = fdt.bias_act_dropout(x, r[0, 0, 0], 0.3, KEY, activation="silu", residual=r)
    steps = fdt.bias_act_dropout(last(x), r[0, 0, 0], 0.3, KEY, activation="silu", residual=last(r))
    torch.testing.assert_close(steps, fused, rtol=1e-6, atol=1e-6)
    assert steps.is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"activation must be one of .* got 'tanh'"):
        fdt.bias_act_dropout(x, None, 0.3, KEY, activation="tanh")
    for t in (x, last(x)):
        for call in (fdt.dropout_add, lambda t, r, *rest: fdt.bias_act_dropout(t, None, *rest, residual=r)):
            with pytest.raises(
                ValueError, match=r"^residual must broadcast with x's shape \(.*\), got \(0,\)$"
            ):
                call(t, x[0, 0, 0, :0], 0.3, KEY)
            wider = call(t[0, :1], r, 0.0, KEY)  # torch adds to a smaller x too
            assert wider.shape == r.shape
    for t in (x, last(x)):
        with pytest.raises(ValueError, match=r"bias must have the shape of x's last axis \(7,\), got \(1,\)"):
            fdt.bias_act_dropout(t, torch.ones(1), 0.3, KEY)


@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "silu"])
def test_fused_passes_take_real_tensors_with_an_axis_in_any_layout(activation):
    def call(x, bias=None, residual=None):
        return fdt.bias_act_dropout(x, bias, 0.5, KEY, activation=activation, residual=residual)

    real = torch.ones(4, 4)
    for t in (torch.Tensor.contiguous, torch.t):
        for residual in (None, torch.ones(4)):
            with pytest.raises(TypeError, match=r"^an activation needs real numbers, got torch\.complex64"):
                call(t(real.to(torch.complex64)), None, residual)
            with pytest.raises(TypeError, match=r"^a bias needs real numbers, got torch\.complex64"):
                call(t(real), torch.ones(4, dtype=torch.complex64), residual)
            for x, bias, name in ((real.long(), None, "x"), (real, torch.ones(4).long(), "bias")):
                with pytest.raises(TypeError, match=rf"got torch.int64; use {name}.float\(\)"):
                    call(t(x), bias, residual)
            with pytest.raises(ValueError, match=r"got a 0-d tensor; use x\[None\]"):
                call(torch.tensor(1.0), None, residual)


def test_autocast_changes_neither_dtype_nor_mask():
    x = normal(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        half = x @ x
        assert half.dtype is torch.bfloat16
        for t in (x, half):
            assert same(fdt.dropout(t, 0.5, KEY), fd.dropout(to_array(t), 0.5, KEY))
        y = fdt.bias_act_dropout(half, x[0].clone().requires_grad_(), 0.5, KEY)
        assert y.dtype is torch.bfloat16


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh", "silu"])
def test_gradients_of_what_is_dropped_vanish_however_they_are_computed(activation, bad):
    dropped = torch.from_numpy(~fd.keep_mask((9, 4), 0.5, KEY))
    x, bias = normal(9, 4), torch.zeros(4, requires_grad=True)
    function = partial(fdt.bias_act_dropout, p=0.5, key=KEY, activation=activation)
    expected = torch.func.grad(lambda x: function(x, bias.detach()).sum())(x)
    x[dropped] = bad
    for again in (False, True):
        for given in (x, x.t().contiguous().t()):
            t = given.clone().requires_grad_()
            y = function(t, bias)
            assert y.isfinite().all()
            dx, dbias = torch.autograd.grad(y.sum(), (t, bias), create_graph=again)
            assert torch.allclose(dx, expected, rtol=1e-5, atol=1e-7)
            assert torch.allclose(dbias, expected.sum(0), rtol=1e-5, atol=1e-6)
    assert torch.allclose(torch.func.grad(lambda x: function(x, bias.detach()).sum())(x), expected)


@pytest.mark.parametrize("key", [KEY, fd.Key(2**70 + 5, 2**63 + 3), fd.Key(2**64 - 1), fd.Key(0), 9])
def test_keys_go_through_tensors(key):
    x = normal(50)
    assert torch.equal(fdt.dropout(x, 0.5, fdt.key_tensor(key)), fdt.dropout(x, 0.5, key))
    assert torch.equal(fdt.dropout_add(x, x, 0.5, fdt.key_tensor(key)), fdt.dropout_add(x, x, 0.5, key))


def test_errors_say_what_to_do():
    x = normal(4)
    elsewhere = SimpleNamespace(is_cpu=False, device="mps:0")  # no machine of the tests has such tensors
    with pytest.raises(NotImplementedError, match=r"CPU and CUDA tensors, got one on mps:0; use x.cpu\(\)"):
        as_array(elsewhere)
    with pytest.raises(TypeError, match=r"got torch.int64; use x.float\(\)"):
        fdt.dropout(torch.arange(3), 0.5, KEY)
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"p must be in \[0, 1\]"):
            fdt.dropout(x, p, KEY)
    with pytest.raises(TypeError, match="key must be"):
        fdt.dropout(x, 0.5, None)
    with pytest.raises(ValueError, match="shared_axes must be in"):
        fdt.dropout(x, 0.5, KEY, shared_axes=1)
    with pytest.raises(TypeError, match=r"got torch.sparse_coo; use x.to_dense\(\)"):
        fdt.dropout(x.to_sparse(), 0.5, KEY)


def test_views_are_zero_copy():
    """Neither pass may allocate more than its output, in any dtype."""

    for dtype in DTYPES:
        x = normal(8, dtype=dtype).requires_grad_()
        array = as_array(x)
        assert array.ctypes.data == x.data_ptr()
        assert as_tensor(array).data_ptr() == x.data_ptr()
        assert as_tensor(array).dtype is dtype


MEMORY = """
import sys, torch, fastdrop.torch as fdt
drop = {"ours": fdt.Dropout, "theirs": torch.nn.Dropout}[sys.argv[1]](0.5)
def step(size):
    x = torch.ones(size, requires_grad=True)
    drop(x).sum().backward()
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
step(1024)
before = peak()
step(1 << 24)
print((peak() - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_no_mask_is_kept():
    """Peak memory of a step: at least a mask of bytes below torch's, which keeps one of floats."""
    size = 1 << 24
    run = lambda who: int(subprocess.check_output([sys.executable, "-c", MEMORY, who]))  # noqa: E731
    ours, theirs = run("ours"), run("theirs")
    assert theirs - ours >= size
    assert ours < 3.2 * 4 * size  # x, y, and the gradient


def test_autograd_keeps_no_tensor():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        x = normal(1000).requires_grad_()
        y = fdt.dropout(fdt.alpha_dropout(fdt.gaussian_dropout(x, 0.5, KEY), 0.5, KEY), 0.5, KEY)
    assert not kept
    grad_fn = y.grad_fn
    del y
    gc.collect()
    assert not any(isinstance(value, torch.Tensor) for value in vars(grad_fn).values())


def test_all_names_what_is_there_with_an_example():
    for name in fdt.__all__:
        assert name in ("Swapped", "Installation") or ">>> " in getattr(fdt, name).__doc__
    assert sorted(fdt.__all__) == sorted(set(fdt.__all__))
