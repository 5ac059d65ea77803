"""What the functions and modules of tensors say of arrays, lists of rates, and arguments in another order."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="fastdrop.torch is of the extra fastdrop-numpy[torch]")

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402

X, T, KEY = np.ones((3, 4), np.float32), torch.ones(3, 4), fd.Key(1)
IMAGES, TOKENS = np.ones((1, 1, 3, 4), np.float32), np.ones(3, np.int64)

# Calls with an array in the place of each tensor in turn, and the name of that argument.
CALLS = {
    "dropout": ("x", lambda: fdt.dropout(X, 0.5, KEY)),
    "dropout in place": ("x", lambda: fdt.dropout(X, 0.5, KEY, inplace=True)),
    "gaussian_dropout": ("x", lambda: fdt.gaussian_dropout(X, 0.5, KEY)),
    "gaussian_noise": ("x", lambda: fdt.gaussian_noise(X, 0.5, KEY)),
    "alpha_dropout": ("x", lambda: fdt.alpha_dropout(X, 0.5, KEY)),
    "drop_path": ("x", lambda: fdt.drop_path(X, 0.5, KEY)),
    "drop_block": ("x", lambda: fdt.drop_block(IMAGES, 0.5, KEY, block_size=2)),
    "zoneout, new": ("new", lambda: fdt.zoneout(X, T, 0.5, KEY)),
    "zoneout, previous": ("previous", lambda: fdt.zoneout(T, X, 0.5, KEY)),
    "standout_dropout, h": ("h", lambda: fdt.standout_dropout(X, T, KEY)),
    "standout_dropout, a": ("a", lambda: fdt.standout_dropout(T, X, KEY)),
    "concrete_dropout": ("x", lambda: fdt.concrete_dropout(X, torch.tensor(0.0), KEY)),
    "concrete_dropout, logit": ("logit", lambda: fdt.concrete_dropout(T, np.array(0.0), KEY)),
    "information_dropout": ("x", lambda: fdt.information_dropout(X, torch.tensor(0.5), KEY)),
    "local_reparameterization": ("mean", lambda: fdt.local_reparameterization(X, T, KEY)),
    "local_reparameterization, variance": (
        "variance",
        lambda: fdt.local_reparameterization(T, X, KEY),
    ),
    "token_dropout": ("tokens", lambda: fdt.token_dropout(TOKENS, 0.5, KEY, replacement=0)),
    "embedding_dropout": ("tokens", lambda: fdt.embedding_dropout(TOKENS, T, 0.5, KEY)),
    "embedding_dropout, weight": (
        "weight",
        lambda: fdt.embedding_dropout(torch.from_numpy(TOKENS), X, 0.5, KEY),
    ),
    "dropout_add": ("x", lambda: fdt.dropout_add(X, T, 0.5, KEY)),
    "dropout_add, residual": ("residual", lambda: fdt.dropout_add(T, X, 0.5, KEY)),
    "bias_act_dropout": ("x", lambda: fdt.bias_act_dropout(X, None, 0.5, KEY)),
    "bias_act_dropout, bias": ("bias", lambda: fdt.bias_act_dropout(T, X[0], 0.5, KEY)),
    "bias_act_dropout, residual": (
        "residual",
        lambda: fdt.bias_act_dropout(T, None, 0.5, KEY, residual=X),
    ),
    "attention": (
        "key",
        lambda: fdt.scaled_dot_product_attention(T, X, T, dropout_p=0.5, noise_key=KEY),
    ),
}
FUNCTIONS = {name for name in fdt.__all__ if name[0].islower()}
FUNCTIONS -= {
    "checkpoint_contexts",
    "install",
    "installed",
    "key_tensor",
    "replace_dropout",
    "restore_dropout",
}


def test_every_function_is_here():
    assert FUNCTIONS - {"scaled_dot_product_attention"} == {
        name.split(",")[0].split()[0] for name in CALLS
    } - {"attention"}


@pytest.mark.parametrize(("name", "call"), CALLS.values(), ids=CALLS)
def test_an_array_in_the_place_of_a_tensor(name, call):
    message = rf"^{name} must be a tensor, got ndarray; use torch\.from_numpy, or the functions and layers"
    with pytest.raises(TypeError, match=message):
        call()


MODULES = [
    getattr(fdt, name)
    for name in fdt.__all__
    if name[0].isupper() and name not in ("Installation", "Swapped")
]


@pytest.mark.parametrize("rng", [None, 1])
@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_an_array_for_a_module(kind, rng):
    module = kind(0.5, rng=rng, **({"replacement": 1} if kind is fdt.TokenDropout else {}))
    two = kind in (fdt.Zoneout, fdt.StandoutDropout, fdt.EmbeddingDropout)
    for mode in (True, False):
        with pytest.raises(
            TypeError, match=f"an input of {kind.__name__} must be a tensor, got ndarray; use"
        ):
            module.train(mode)(*(X, X)[: 1 + two])
    assert rng is None or module.key == fd.Key(1)


ORDERS = {
    "zoneout": (lambda: fdt.zoneout(T, 0.5, T, KEY), "previous must be a tensor, got float; see help"),
    "dropout_add": (
        lambda: fdt.dropout_add(T, 0.5, T, KEY),
        "residual must be a tensor, got float; see help",
    ),
    "x after p": (lambda: fdt.dropout(0.5, T, KEY), "x must be a tensor, got float; see help"),
    "p after key": (lambda: fdt.dropout(T, KEY, 0.5), "got Key; p comes before the key"),
    "zoneout, p after key": (lambda: fdt.zoneout(T, T, KEY, 0.5), "got Key; p comes before the key"),
}


@pytest.mark.parametrize(("call", "message"), ORDERS.values(), ids=ORDERS)
def test_arguments_in_another_order(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_lists_of_rates():
    for call in (lambda p: fdt.dropout(T, p, KEY), lambda p: fdt.drop_path(T, p, KEY), fdt.Dropout):
        with pytest.raises(TypeError, match=r"got list; use one number, or np\.array\(p\) in functions"):
            call([0.5] * 4)
    assert fdt.dropout(T, np.array([0.5] * 4), KEY).shape == T.shape
    with pytest.raises(TypeError, match=r"got Tensor; use one number, .* or p in those of fastdrop\.torch$"):
        fdt.Dropout(torch.full((4,), 0.5))
    assert fdt.dropout(T, torch.full((4,), 0.5), KEY).shape == T.shape
    with pytest.raises(TypeError, match="got ndarray; use one number, since no array is taken here"):
        fdt.alpha_dropout(T, torch.full((4,), 0.5), KEY)


@pytest.mark.parametrize("key", ["a", torch.Generator()], ids=["a str", "a generator"])
def test_a_key_that_is_none(key):
    for module in (fdt.Dropout(0.5), fdt.Dropout(0.5, rng=1)):
        before = module.key
        with pytest.raises(TypeError, match=r"^key must be None, an int, "):
            module.key = key
        with pytest.raises(TypeError, match=r"^rng must be None, an int, "):
            module.reseed(key)
        assert module.key == before


@pytest.mark.parametrize(("given", "name"), [((KEY,), "rows"), ((0.5,), "rows"), ((None, KEY), "indices")])
def test_a_rate_or_a_key_for_a_call_of_a_module(given, name):
    with pytest.raises(TypeError, match=rf"^{name} must be integers, got .*; a module has its own p and key"):
        fdt.Dropout(0.5)(T, *given)


def test_a_bias_of_integers():
    with pytest.raises(TypeError, match=r"^bias must be of .*, got torch\.int64; use bias\.float\(\)$"):
        fdt.bias_act_dropout(T, torch.ones(4, dtype=torch.int64), 0.5, KEY)


@pytest.mark.parametrize("axes", [None, 1.5, "01", (0, None)], ids=repr)
def test_shared_axes_that_are_no_integers(axes):
    for call in (fdt.dropout, fdt.concrete_dropout, fdt.gaussian_noise):
        with pytest.raises(TypeError, match=r"^shared_axes must be an int or a tuple of ints, got "):
            call(T, torch.tensor(0.5), KEY, shared_axes=axes)


def test_an_activation_that_is_no_string():
    with pytest.raises(ValueError, match=r"^activation must be one of .*, got \['relu'\]$"):
        fdt.bias_act_dropout(T, None, 0.5, KEY, activation=["relu"])


# but for a module that takes arrays of alpha, and says so
@pytest.mark.parametrize(
    "kind", [kind for kind in MODULES if kind is not fdt.InformationDropout], ids=lambda kind: kind.__name__
)
def test_modules_take_no_schedules(kind):
    options = {"replacement": 1} if kind is fdt.TokenDropout else {}
    name = {fdt.GaussianNoise: "std", fdt.StandoutDropout: "alpha"}.get(kind, "p")
    message = rf"got Linear; only layers .* take a schedule; .* module\.{name} = schedule\(step\)$"
    with pytest.raises(TypeError, match=message):
        kind(fd.schedules.Linear(0.5, steps=3), **options)


def test_a_scheduler_takes_no_modules():
    with pytest.raises(TypeError, match=r"got Dropout, which has no step\(\); set module\.p = schedule"):
        fd.Scheduler([fdt.Dropout(0.5)])


@pytest.mark.parametrize(
    "call",
    [
        lambda rng: fdt.Dropout(rng=rng),
        lambda rng: fdt.Dropout().reseed(rng),
        lambda rng: fdt.replace_dropout(torch.nn.Dropout(), rng=rng),
    ],
)
def test_a_generator_of_pytorch_gives_no_key(call):
    message = r"^rng must be None, .* got torch\.Generator; omit rng to follow torch's generator$"
    with pytest.raises(TypeError, match=message):
        call(torch.Generator())


WRONG = {
    "rate": lambda x: fdt.dropout(x, 1.5, KEY),
    "a list": lambda x: fdt.dropout(x, [0.5], KEY),
    "integers": lambda x: fdt.dropout(x.long(), 0.5, KEY),
    "axes": lambda x: fdt.dropout(x, 0.5, KEY, shared_axes=7),
    "gaussian": lambda x: fdt.gaussian_dropout(x, 1.0, KEY),
    "std": lambda x: fdt.gaussian_noise(x, -1.0, KEY),
    "alpha": lambda x: fdt.alpha_dropout(x.to(torch.complex64), 0.5, KEY),
    "path": lambda x: fdt.drop_path(x, -0.5, KEY),
    "block": lambda x: fdt.drop_block(x.view(1, 1, 3, 4), 1.5, KEY, block_size=2),
    "zoneout": lambda x: fdt.zoneout(x, x[:2], 0.5, KEY),
    "standout": lambda x: fdt.standout_dropout(x, x, KEY, alpha=float("nan")),
    "another shape": lambda x: fdt.standout_dropout(x, x[:, :2], KEY),
    "mean": lambda x: fdt.local_reparameterization(x.to(torch.complex64), x, KEY),
    "weight": lambda x: fdt.embedding_dropout(x.long(), x.long(), 0.5, KEY),
    "token": lambda x: fdt.token_dropout(x.to(torch.int8), 0.5, KEY, replacement=1000),
    "learned": lambda x: fdt.information_dropout(x.long(), x[0, 0], KEY),
    "logits": lambda x: fdt.concrete_dropout(x, x[:1, 0], KEY),
    "alphas": lambda x: fdt.information_dropout(x, x[:, 0], KEY),
    "alphas of another rank": lambda x: fdt.information_dropout(x, x[None], KEY),
    "alphas of shared draws": lambda x: fdt.information_dropout(x, x, KEY, shared_axes=0),
    "key": lambda x: fdt.dropout(x, 0.5, torch.zeros(3)),
    "key of a learned noise": lambda x: fdt.concrete_dropout(x, x[0, 0], torch.zeros(3)),
    "key of tokens": lambda x: fdt.token_dropout(x.long(), 0.5, torch.zeros(3), replacement=0),
    "axes of an image": lambda x: fdt.drop_block(x, 0.5, KEY),
    "variances": lambda x: fdt.local_reparameterization(x, x[:, :2], KEY),
    "fused": lambda x: fdt.bias_act_dropout(x, None, 1.5, KEY),
    "module": lambda x: fdt.Dropout(0.5, rng=1)(x.long()),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_meta_tensors_are_refused_as_others(call):
    with pytest.raises((TypeError, ValueError)) as error:
        call(T)
    with pytest.raises(error.type, match=f"^{re.escape(str(error.value))}$"):
        call(T.to("meta"))


REAL = {
    "alpha": lambda alpha: fdt.information_dropout(T, alpha, KEY),
    "logit": lambda logit: fdt.concrete_dropout(T, logit[0], KEY),
    "variance": lambda variance: fdt.local_reparameterization(T, variance, KEY),
}


@pytest.mark.parametrize("name", REAL)
def test_complex_numbers_and_bools_where_real_ones_are_needed(name):
    for dtype, fix in ((torch.complex64, "real"), (torch.bool, r"float\(\)")):
        message = rf"^{name} must be of real numbers, got {dtype}; use {name}\.{fix}$"
        with pytest.raises(TypeError, match=message):
            REAL[name](torch.ones(4, dtype=dtype))


@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_wrong_keywords_are_those_of_the_public_class(kind):
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\.__init__\(\) .*'nonsense'"):
        kind(nonsense=1)
