"""fastdrop.torch on CUDA tensors: of a GPU where there is one, else by CPU tensors taken for such."""

import copy
import warnings
from contextlib import contextmanager

import device_arrays
import numpy as np
import pytest
import torch
from device_arrays import SIMULATED, Driver, stand_in
from torch.utils.checkpoint import checkpoint

import fastdrop as fd
import fastdrop.torch as fdt
from fastdrop._arrays import device
from fastdrop.torch import _keys

KEY = fd.Key(7, draw=3)
SIMULATED = SIMULATED or not torch.cuda.is_available()
WHERE = "cpu" if SIMULATED else "cuda"


@pytest.fixture(autouse=True)
def driver(monkeypatch):
    """What starts kernels; without a GPU every strided tensor is taken for one of its memory."""
    if not SIMULATED:
        from fastdrop._cuda import driver

        return driver
    found = Driver()
    stand_in(monkeypatch, found)

    def is_there(x):
        return isinstance(x, torch.Tensor) and x.layout is torch.strided and not x.is_meta

    monkeypatch.setattr(device, "is_there", is_there)
    monkeypatch.setattr(device, "stream_of_tensors", lambda number: 0)
    monkeypatch.setattr(device, "is_captured", lambda x: False)
    return found


def made(*shape, dtype=torch.float32, seed=0):
    x = torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)
    return x.to(WHERE)


def on_host(x):
    """The values as an array, of bfloat16 as float32."""
    x = x.detach().cpu()
    return (x.float() if x.dtype is torch.bfloat16 else x).numpy()


def as_on_host(function, *tensors, **options):
    """What the NumPy function gives of the tensors' values, which are the bits that a GPU must give."""
    import ml_dtypes

    arrays = []
    for x in tensors:
        a = x.detach().cpu()
        arrays.append(
            a.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if a.dtype is torch.bfloat16 else a.numpy()
        )
    return np.asarray(function(*arrays, **options), dtype=None)


def equal(y, expected):
    return np.array_equal(on_host(y), expected.astype(on_host(y).dtype), equal_nan=True)


def functions_and_dtypes():
    """Every pair, all slow but for dropout in every dtype and every function in float32.

    A tensor's dtype is read in the same way for all, and test_cuda.py has the kernels of each.
    """
    for name in ("dropout", "gaussian_dropout", "gaussian_noise", "alpha_dropout"):
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            plain = name == "dropout" or dtype is torch.float32
            yield pytest.param(name, dtype, marks=[] if plain else [pytest.mark.slow])


@pytest.mark.parametrize("shape", [(5,), (4, 1), ()], ids=str)
def test_rates_on_the_gpu(shape, driver, monkeypatch):
    """Without a copy from the host; backward has the rates that forward had."""
    monkeypatch.setattr(driver, "upload", None)
    p = np.random.default_rng(1).random(shape)
    x, there = made(4, 5).requires_grad_(), torch.from_numpy(np.array(p)).to(WHERE)
    y = fdt.dropout(x, there, KEY)
    there.fill_(0.5)
    y.backward(torch.ones_like(y))
    assert equal(y, as_on_host(fd.dropout, x, p=p, key=KEY))
    assert equal(x.grad, as_on_host(fd.dropout, torch.ones(4, 5), p=p, key=KEY))
    with pytest.raises(TypeError, match="p gets no gradient"):
        fdt.dropout(x, there.requires_grad_(), KEY)
    rows, there = x.detach()[None], torch.tensor(0.25, device=WHERE)
    y = torch.func.vmap(lambda row: fdt.dropout(row, there, KEY))(rows)
    assert equal(y[0], as_on_host(fd.dropout, rows[0], p=0.25, key=KEY))
    with pytest.raises(RuntimeError, match="under vmap p can't be mapped"):
        torch.func.vmap(lambda row, p: fdt.dropout(row, p, KEY))(rows, there[None])
    monkeypatch.setattr(device, "is_there", lambda a: not isinstance(a, np.ndarray))
    with pytest.raises(TypeError, match=r"p must be a number, .*, got ndarray; use torch\.from_dlpack"):
        fdt.dropout(x, device_arrays.ndarray(p), KEY)


SHARED = [
    ((3, 700), 1),
    ((3, 4, 5, 6), (-1, 2)),
    ((3, 4, 5, 6), 0),
    ((2, 3, 4, 5, 6), (1, 3)),
    ((3, 4), (0, 1)),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_units_have_the_bits_of_numpy_forwards_and_backwards(dtype):
    """Also with axes for which one launch isn't enough, and where none is shared."""
    for shape, axes in [*SHARED, ((3, 1), 1)]:
        x, g = made(*shape, dtype=dtype).requires_grad_(), made(*shape, dtype=dtype, seed=1)
        y = fdt.dropout(x, 0.3, KEY, shared_axes=axes)
        (dx,) = torch.autograd.grad(y, x, g)
        for found, given in ((y, x), (dx, g)):
            assert equal(
                found, as_on_host(lambda a, axes=axes: fd.dropout(a, 0.3, KEY, shared_axes=axes), given)
            )
        z = x.detach().clone()
        assert fdt.dropout(z, 0.3, KEY, shared_axes=axes, inplace=True) is z
        assert torch.equal(z, y)
    for axes in (2, (0, 0), (0, -2)):
        with pytest.raises(ValueError, match=r"axis|axes"):
            fdt.dropout(made(3, 4, dtype=dtype), 0.3, KEY, shared_axes=axes)


def test_a_module_of_feature_maps_takes_few_steps(driver):
    module, x = fdt.Dropout2d(0.5), made(2, 3, 4, 4).requires_grad_()
    y = module(x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(x))
    assert torch.equal(y, dx * x)
    if SIMULATED:
        works = [(variant.work, variant.names) for variant, *_ in driver.started]
        assert works == [("drops", ("factor",)), ("spread", ("drop",))] * 2


@pytest.mark.parametrize(("name", "dtype"), list(functions_and_dtypes()), ids=str)
def test_functions_have_the_bits_of_numpy(name, dtype, driver):
    x = made(3, 700, dtype=dtype)
    ours, theirs = getattr(fdt, name), getattr(fd, name)
    y = ours(x, 0.3, KEY)
    assert y.dtype is dtype
    assert y.device == x.device
    assert equal(y, as_on_host(lambda a: theirs(a, 0.3, KEY), x))
    assert equal(
        ours(x, 0.3, KEY, shared_axes=1), as_on_host(lambda a: theirs(a, 0.3, KEY, shared_axes=1), x)
    )
    rows = [9, 0, 9]
    assert equal(ours(x, 0.3, KEY, rows=rows), as_on_host(lambda a: theirs(a, 0.3, KEY, rows=rows), x))
    before = x.clone()
    assert ours(x, 0.3, KEY, inplace=True) is x
    assert equal(x, on_host(y))
    assert not equal(before, on_host(y))
    if SIMULATED:
        assert driver.started


def test_gradients():
    x = made(2, 600).requires_grad_()
    for name, derivative in (
        ("dropout", fd.dropout_backward),
        ("gaussian_dropout", fd.gaussian_dropout_backward),
    ):
        y = getattr(fdt, name)(x, 0.3, KEY)
        g = made(2, 600, seed=1)
        (dx,) = torch.autograd.grad(y, x, g)
        assert equal(dx, as_on_host(lambda a, derivative=derivative: derivative(a, 0.3, KEY), g))
    y = fdt.dropout(x, 0.3, KEY)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (again,) = torch.autograd.grad(dx.sum(), x)
    kept = (y != 0).double() / 0.7
    torch.testing.assert_close(again.double(), 2 * kept * kept, rtol=1e-5, atol=0)


def test_other_noises():
    new, old, g = (made(3, 40, seed=s).requires_grad_() for s in range(3))
    y = fdt.zoneout(new, old, 0.3, KEY)
    assert equal(y, as_on_host(lambda a, b: fd.zoneout(a, b, 0.3, KEY), new, old))
    dnew, dold = torch.autograd.grad(y, (new, old), g.detach())
    expected = fd.zoneout_backward(on_host(g), 0.3, KEY)
    assert equal(dnew, expected[0])
    assert equal(dold, expected[1])
    assert equal(fdt.drop_path(new, 0.5, KEY), as_on_host(lambda a: fd.drop_path(a, 0.5, KEY), new))
    p = np.linspace(0, 1, 40)
    assert equal(fdt.dropout(new, p, KEY), as_on_host(lambda a: fd.dropout(a, p, KEY), new))
    assert equal(fdt.dropout_add(new, old, 0.3, KEY), fd.dropout_add(on_host(new), on_host(old), 0.3, KEY))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_bias_act_dropout(activation):
    x, bias, residual = (
        made(*shape, seed=s).requires_grad_() for s, shape in enumerate([(5, 70), (70,), (5, 70)])
    )
    y = fdt.bias_act_dropout(x, bias, 0.3, KEY, activation=activation, residual=residual)
    given = [on_host(t) for t in (x, bias, residual)]
    options = {"activation": activation}
    assert equal(y, fd.bias_act_dropout(*given[:2], 0.3, KEY, residual=given[2], **options))
    g = made(5, 70, seed=4)
    dx, dbias, dresidual = torch.autograd.grad(y, (x, bias, residual), g)
    expected, db = fd.bias_act_dropout_backward(on_host(g), *given[:2], 0.3, KEY, **options)
    assert equal(dx, expected)
    np.testing.assert_allclose(on_host(dbias), db, rtol=1e-5, atol=1e-6)
    assert equal(dresidual, on_host(g))


@pytest.mark.parametrize("channels", [5, 20])
def test_memory_formats(channels):
    x = made(2, channels, 4, 6)
    y = fdt.dropout(x, 0.5, KEY)
    last = fdt.dropout(x.to(memory_format=torch.channels_last), 0.5, KEY)
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, y)
    assert torch.equal(
        fdt.dropout(x.transpose(0, 3), 0.5, KEY), fdt.dropout(x.transpose(0, 3).contiguous(), 0.5, KEY)
    )


@pytest.mark.parametrize("rng", [None, 5])
@pytest.mark.parametrize(
    "kind",
    [fdt.Dropout, fdt.Dropout2d, fdt.AlphaDropout, fdt.GaussianDropout, fdt.DropPath],
    ids=lambda k: k.__name__,
)
def test_modules(kind, rng):
    torch.manual_seed(1)
    module, x = kind(0.5, rng=rng), made(4, 3, 8, 9).requires_grad_()
    first, second = module(x), module(x)
    assert not torch.equal(first, second)
    (dx,) = torch.autograd.grad(first, x, torch.ones_like(first))
    if kind is not fdt.AlphaDropout:
        torch.testing.assert_close(dx * x, first)
    assert module.eval()(x) is x
    if rng is None:
        torch.manual_seed(1)
        assert torch.equal(module.train()(x), first)
    else:
        assert torch.equal(kind(0.5, rng=rng)(x), first)


def test_in_place_in_any_memory_format():
    x = made(2, 5, 4, 6).to(memory_format=torch.channels_last)
    expected = fdt.dropout(x, 0.5, KEY)
    assert fdt.dropout(x, 0.5, KEY, inplace=True) is x
    assert torch.equal(x, expected)
    other = made(6, 5).t()
    assert torch.equal(
        fdt.gaussian_dropout(other.clone(), 0.5, KEY, inplace=True), fdt.gaussian_dropout(other, 0.5, KEY)
    )


def test_checkpoint():
    x, layer = made(64, 32).requires_grad_(), torch.nn.Linear(32, 32).to(WHERE)
    model = torch.nn.Sequential(layer, fdt.Dropout(0.5), torch.nn.ReLU())
    for reentrant in (False, True):
        torch.manual_seed(3)
        y = checkpoint(model, x, use_reentrant=reentrant)
        x.grad = None
        y.sum().backward()
        torch.manual_seed(3)
        plain = model(x)
        assert torch.equal(y, plain)
        assert torch.equal(x.grad, torch.autograd.grad(plain.sum(), x)[0])


def test_replaced_modules(driver):
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.5)).to(WHERE)
    x = made(4, 8)
    torch.manual_seed(0)
    swapped = copy.deepcopy(model)
    fdt.replace_dropout(swapped)
    y = swapped(x)
    assert 0 < int((y == 0).sum()) < y.numel()
    assert type(swapped[1]) is fdt.Dropout
    assert not SIMULATED or driver.started


class TestKeysThatAGraphDraws:
    """In a captured graph the draw is a number in the GPU's memory, which each replay makes anew."""

    def test_bits_are_those_of_the_number(self):
        memory = torch.tensor([12345], dtype=torch.int64, device=WHERE)
        key, plain = _keys.DeviceKey(memory), fd.Key(_keys.SEED, 12345)
        x = made(2, 3000)
        for name in ("dropout", "gaussian_dropout", "alpha_dropout"):
            y = getattr(fdt, name)(x, 0.3, key)
            assert torch.equal(y, getattr(fdt, name)(x, 0.3, plain))
            shared = getattr(fdt, name)(x, 0.3, key, shared_axes=0)
            assert torch.equal(shared, getattr(fdt, name)(x, 0.3, plain, shared_axes=0))
            memory.fill_(12346)  # as a replay does
            assert not torch.equal(y, getattr(fdt, name)(x, 0.3, key))
            memory.fill_(12345)

    def test_nobody_can_use_its_number(self):
        key = _keys.DeviceKey.drawn(torch.device(WHERE))
        assert fdt.key_tensor(key) is key.memory
        with pytest.raises(TypeError, match="for CUDA tensors alone"):
            fd.Dropout(0.5, rng=1).key = key
        with pytest.raises(TypeError, match="for CUDA tensors alone"):
            fd.dropout(np.ones(3), 0.5, key)
        for use in (
            lambda: key.fold_in(1),
            lambda: key.split(2),
            lambda: key.next(),
            lambda: key.antithetic(),
        ):
            with pytest.raises(RuntimeError, match="isn't known"):
                use()

    @pytest.mark.skipif(not SIMULATED, reason="the other test captures a graph")
    def test_modules_draw_so_while_a_graph_is_captured(self, monkeypatch):
        drawn = []
        device_draw = _keys.device_draw

        def draw(where):
            drawn.append(device_draw(where))
            return drawn[-1]

        monkeypatch.setattr(device, "is_captured", lambda x: True)
        monkeypatch.setattr(_keys, "device_draw", draw)
        x = made(40, 50).requires_grad_()
        for module in (fdt.Dropout(0.5), fdt.GaussianDropout(0.5), fdt.Dropout1d(0.5)):
            y = module(x)
            kept = drawn[-1].clone()
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
            torch.testing.assert_close(dx * x, y)
            drawn[-1].fill_(99)  # a replay draws another number, and its backward pass has its forward's
            (other,) = torch.autograd.grad(y, x, torch.ones_like(y))
            assert not torch.equal(dx, other)
            drawn[-1].copy_(kept)
        with pytest.raises(RuntimeError, match="every replay"):
            fdt.Dropout(0.5, rng=1)(x)

    @pytest.mark.skipif(SIMULATED, reason="needs a GPU")
    def test_replays_draw_different_masks_with_their_gradients(self):
        x = torch.ones(1 << 14, device="cuda", requires_grad=True)
        module = fdt.Dropout(0.5)
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            module(x).sum().backward()
        torch.cuda.synchronize()
        x.grad = None
        with torch.cuda.graph(graph):
            y = module(x)
            y.sum().backward()
        masks = []
        for _ in range(3):
            x.grad = torch.zeros_like(x) if x.grad is None else x.grad.zero_()
            graph.replay()
            torch.cuda.synchronize()
            masks.append(y.detach().clone())
            assert torch.equal(x.grad, y.detach())
        assert not torch.equal(masks[0], masks[1])
        assert not torch.equal(masks[1], masks[2])


def test_refusals():
    x = made(4, 5).requires_grad_()
    with pytest.raises(TypeError, match=r"fastdrop\.torch"):
        fd.dropout(x, 0.5, 1)
    with pytest.raises(TypeError, match="int64"):
        fdt.dropout(made(4).long(), 0.5, 1)
    for call in (
        lambda: fdt.drop_block(made(1, 1, 9, 9), 0.5, 1),
        lambda: fdt.standout_dropout(made(4), made(4), 1),
    ):
        with pytest.raises(NotImplementedError, match=r"takes no tensors on a GPU.*use x\.cpu\(\)"):
            call()


@contextmanager
def nobody_waits():
    """Let whatever waits for the GPU raise an error; without a GPU, what reads a tensor's numbers."""
    if not SIMULATED:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it doesn't see all that waits
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return
    with pytest.MonkeyPatch.context() as patched:
        for name in ("__float__", "__bool__", "item", "tolist"):
            patched.setattr(torch.Tensor, name, refused(getattr(torch.Tensor, name)))
        yield


def refused(read):
    """A way to read a tensor that refuses those of real numbers."""

    def reads(x):
        assert not x.is_floating_point(), "this waits for the GPU"
        return read(x)

    return reads


class TestLearnedNumbers:
    """The number and its gradient are on the GPU, so that nothing waits for it."""

    def gradients(self, function, x, number, g, **options):
        x, number = x.clone().requires_grad_(), number.clone().requires_grad_()
        with nobody_waits():
            y = function(x, number, KEY, **options)
            return y.detach(), *torch.autograd.grad(y, (x, number), g)

    def check(self, name, x, number, given, **options):
        """Check values and gradients against the function of arrays, of a number that the host knows."""
        g = made(*x.shape, dtype=x.dtype, seed=1)
        y, dx, dnumber = self.gradients(getattr(fdt, name), x, number, g, **options)
        assert equal(y, as_on_host(lambda a: getattr(fd, name)(a, given, KEY, **options), x))
        arrays = [on_host(a).astype(np.float64 if x.dtype is torch.float64 else np.float32) for a in (g, x)]
        backward = getattr(fd, f"{name}_backward")
        assert equal(dx, as_on_host(lambda a: getattr(fd, name)(a, given, KEY, **options), g))
        assert (dnumber.dtype, dnumber.device, dnumber.shape) == (number.dtype, x.device, number.shape)
        expected = backward(*arrays, given, KEY, **options)[1]
        np.testing.assert_allclose(on_host(dnumber), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
    def test_functions(self, dtype):
        x = made(3, 70, dtype=dtype)
        for options in ({}, {"shared_axes": 0}, {"rows": [9, 0, 9]}):
            number = torch.tensor(-0.75, device=WHERE)
            self.check("concrete_dropout", x, number, -0.75, temperature=0.5, **options)
            self.check("information_dropout", x, number.neg(), 0.75, **options)
        for shape in ((70,), (3, 1), (3, 70)):
            alpha = made(*shape).abs()
            self.check("information_dropout", x, alpha, on_host(alpha).astype(np.float64))

    def test_an_alpha_that_does_not_repeat(self):
        alpha = made(3, 1, 5).abs()
        self.check("information_dropout", made(3, 4, 5), alpha, on_host(alpha).astype(np.float64))

    def test_numbers_that_do_not_learn(self):
        x, g = made(3, 70).requires_grad_(), made(3, 70, seed=1)
        with nobody_waits():
            y = fdt.information_dropout(x, 0.5, KEY)
        assert equal(y, as_on_host(lambda a: fd.information_dropout(a, 0.5, KEY), x))
        (dx,) = torch.autograd.grad(y, x, g)
        assert equal(dx, as_on_host(lambda a: fd.information_dropout(a, 0.5, KEY), g))

    @pytest.mark.parametrize("rng", [None, 5])
    def test_modules(self, rng):
        torch.manual_seed(1)
        x, weight = made(40, 5), made(3, 5)
        for module in (fdt.ConcreteDropout(0.3, rng=rng), fdt.InformationDropout([0.3] * 5, rng=rng)):
            module.to(WHERE)
            optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
            (number,) = module.parameters()
            before = number.detach().clone()
            with nobody_waits():
                (module(x).square().mean() + self.regularizer(module, weight)).backward()
            assert number.grad.device == x.device
            assert bool(torch.isfinite(number.grad).all())
            optimiser.step()
            assert not torch.equal(number, before)
            assert module.eval()(x) is x

    def regularizer(self, module, weight):
        if isinstance(module, fdt.InformationDropout):
            return module.regularizer(0.1)
        return module.regularizer(weight, weight_scale=0.1, entropy_scale=0.1)

    @pytest.mark.skipif(not SIMULATED, reason="a GPU's tensors need no pretending")
    def test_a_number_elsewhere_is_refused(self, monkeypatch):
        x, number = made(4, 5), torch.zeros((), requires_grad=True)
        for there, advice in ((x, r"logit\.to\(x\.device\)"), (number, r"logit\.cpu\(\)")):
            monkeypatch.setattr(device, "is_there", lambda a, there=there: a is there)
            with pytest.raises(RuntimeError, match=f"logit must be on cpu as x is.*{advice}"):
                fdt.concrete_dropout(x, number, KEY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("needs", [(False, False), (True, False), (False, True), (True, True)])
def test_dropout_add_in_few_steps(dtype, needs):
    x, residual, g = (made(7, 300, dtype=dtype, seed=seed) for seed in range(3))
    expected = as_on_host(lambda a, b: fd.dropout_add(a, b, 0.3, KEY), x, residual)
    dx = as_on_host(lambda a: fd.dropout(a, 0.3, KEY), g)
    for p, key in ((0.3, KEY), (np.array(0.3), KEY)):  # the quick way takes no array
        a, b = (t.clone().requires_grad_(need) for t, need in zip((x, residual), needs, strict=True))
        y = fdt.dropout_add(a, b, p, key)
        assert equal(y, expected)
        assert y.requires_grad is any(needs)
        if y.requires_grad:
            y.backward(g)
        assert a.grad is None if not needs[0] else equal(a.grad, dx)
        assert b.grad is None if not needs[1] else torch.equal(b.grad, g)


def test_dropout_add_takes_the_long_way_where_it_must():
    x, residual = made(4, 300), made(4, 300, seed=1)
    for a, b in (
        (x.T, residual.T),
        (x, residual.double()),
        (x, residual[0]),
        (x.double(), residual.double()),
        (x[:, ::2], residual[:, ::2]),
    ):
        key = fd.Key(5)
        expected = b + fdt.dropout(a, 0.3, key)
        torch.testing.assert_close(fdt.dropout_add(a, b, 0.3, key), expected, rtol=0, atol=0)
    for p in (0.0, 1.0):
        assert torch.equal(fdt.dropout_add(x, residual, p, 5), residual + fdt.dropout(x, p, 5))
    with pytest.raises(TypeError, match="key"):
        fdt.dropout_add(x, residual, 0.3, "key")
    with pytest.raises(ValueError, match="p must be"):
        fdt.dropout_add(x, residual, 1.5, 5)


def test_dropout_add_has_a_second_derivative():
    a = made(3, 40, dtype=torch.float64).requires_grad_()
    b = made(3, 40, dtype=torch.float64, seed=1).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x, y: fdt.dropout_add(x, y, 0.3, KEY), (a, b))
    with torch.no_grad():
        assert not fdt.dropout_add(a, b, 0.3, KEY).requires_grad
    with torch.autograd.profiler.profile() as profile:
        fdt.dropout_add(a, b, 0.3, KEY)
    assert "fastdrop::dropout_add" in {event.name for event in profile.function_events}
