"""Times of fastdrop in PyTorch and dask, skipped where these or the integrations aren't there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

from .cases import Call, Case, Make
from .given import Given, Shape, flat, images, rows
from .measures import timed

FLOATS = ("float16", "float32", "float64")  # that a tensor can be made of


def _integration(name: str) -> Any:
    """fastdrop.torch or fastdrop.dask, with as many threads as fastdrop may use."""
    module, package = importlib.import_module(f"fastdrop.{name}"), importlib.import_module(name)
    if name == "torch":
        package.set_num_threads(importlib.import_module("fastdrop").get_num_threads())
    return module


def _torch(name: str, call: Callable[[Any, Any, Given], Any], shape: Callable[[int], Shape] = flat) -> Case:
    """A case of call(fastdrop.torch, tensor, given), and of its gradient."""

    def forward(s: Given) -> Call:
        import torch

        return partial(call, _integration("torch"), torch.from_numpy(s.x), s)

    def backward(s: Given) -> Call:
        import torch

        x, g = torch.from_numpy(s.x).requires_grad_(), torch.from_numpy(s.g)
        y = call(_integration("torch"), x, s)
        return lambda: torch.autograd.grad(y, x, g, retain_graph=True)

    return Case(f"torch__{name}", forward, backward, shape, out=False, dtypes=FLOATS)


def _module(name: str, shape: Callable[[int], Shape] = flat) -> Case:
    """A case of a module of p, training."""
    return _torch(name, lambda fdt, x, s: getattr(fdt, name)(s.p)(x), shape)


def _residual(s: Given) -> Any:
    import torch

    return torch.from_numpy(s.other)


def _dask(call: Callable[[Any, Any, Given], Any]) -> Make:
    """A call of call(fastdrop.dask, array, given) over four chunks, by dask's threads or none."""

    def forward(s: Given) -> Call:
        module = _integration("dask")
        import dask.array

        chunks = (max(1, len(s.x) // 4), *s.x.shape[1:])
        lazy = call(module, dask.array.from_array(s.x, chunks=chunks), s)
        threads = importlib.import_module("fastdrop").get_num_threads()
        scheduler = "synchronous" if threads == 1 else "threads"
        return lambda: dask.compute(lazy, scheduler=scheduler, num_workers=threads)

    return forward


def _dask_of(name: str) -> Make:
    """The same of a function of (x, p, key)."""
    return _dask(lambda fdd, x, s: getattr(fdd, name)(x, s.p, s.key))


CASES = [
    _torch("dropout", lambda fdt, x, s: fdt.dropout(x, s.p, s.key)),
    _torch("gaussian_dropout", lambda fdt, x, s: fdt.gaussian_dropout(x, s.p, s.key)),
    _torch("alpha_dropout", lambda fdt, x, s: fdt.alpha_dropout(x, s.p, s.key)),
    _torch("dropout_add", lambda fdt, x, s: fdt.dropout_add(x, _residual(s), s.p, s.key)),
    _torch(
        "bias_act_dropout", lambda fdt, x, s: fdt.bias_act_dropout(x, _residual(s)[0], s.p, s.key), shape=rows
    ),
    _module("Dropout"),
    _module("Dropout2d", images),
    _module("GaussianDropout"),
    _module("AlphaDropout"),
    _module("DropPath", rows),
    *(
        Case(f"dask__{name}", _dask_of(name), _dask_of(f"{name}_backward"), out=False)
        for name in ("dropout", "gaussian_dropout", "alpha_dropout", "drop_path")
    ),
    Case(
        "dask__dropout_add",
        _dask(lambda fdd, x, s: fdd.dropout_add(x, s.other, s.p, s.key)),
        _dask_of("dropout_add_backward"),
        out=False,
    ),
    Case(
        "dask__bias_act_dropout",
        _dask(lambda fdd, x, s: fdd.bias_act_dropout(x, s.other[0], s.p, s.key)),
        _dask(lambda fdd, x, s: fdd.bias_act_dropout_backward(x, s.x, s.other[0], s.p, s.key)),
        rows,
        out=False,
    ),
]
globals().update(timed(CASES))
