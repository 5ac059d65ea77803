"""Times of the integrations; PyTorch's with autograd, dask's of graphs that are ready.

A case is named as the package and what is timed of it. The noises' come from their records.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .cases import OF_FUNCTIONS, OPTIONS, RECORDS, SHAPES, Call, Case, Make, Record
from .given import Given, Shape, flat, rows
from .measures import timed

FLOATS = ("float16", "float32", "float64")  # that a tensor can be made of
# modules that aren't made of a rate, or take two arrays
OTHER_MODULES = ("EmbeddingDropout", "StandoutDropout", "TokenDropout", "Zoneout")
MODULE_SHAPES = SHAPES | {"DropPath": rows}


def _integration(name: str) -> Any:
    """fastdrop.torch or fastdrop.dask, with as many threads as fastdrop may use."""
    module, package = importlib.import_module(f"fastdrop.{name}"), importlib.import_module(name)
    if name == "torch":
        package.set_num_threads(importlib.import_module("fastdrop").get_num_threads())
    return module


def _torch(
    name: str,
    made: Callable[[Any, Any, Given], Call],
    shape: Callable[[int], Shape] = flat,
    dtypes: tuple[str, ...] = FLOATS,
    argument: Callable[[Given], np.ndarray] = lambda s: s.x,
    has_gradient: bool = True,
) -> Case:
    """A case of the call that is made of fastdrop.torch, a tensor and what is given, and of its gradient."""

    def forward(s: Given) -> Call:
        import torch

        return made(_integration("torch"), torch.from_numpy(argument(s)), s)

    def backward(s: Given) -> Call:
        import torch

        x, g = torch.from_numpy(argument(s)).requires_grad_(), torch.from_numpy(s.g)
        y = made(_integration("torch"), x, s)()
        return lambda: torch.autograd.grad(y, x, g, retain_graph=True)

    return Case(f"torch__{name}", forward, backward if has_gradient else None, shape, False, dtypes)


def _function(record: Record) -> Case:
    """A case of a noise's function; the gradient is that of its first array of real numbers."""

    def differentiated(s: Given) -> str:
        arrays = {n: a for n, a in record.given(s).items() if isinstance(a, np.ndarray)}
        return next((n for n, a in arrays.items() if a.dtype.kind == "f"), next(iter(arrays)))

    def made(fdt: Any, x: Any, s: Given) -> Call:
        import torch

        given = record.given(s)
        tensors = [n for n, value in given.items() if isinstance(value, np.ndarray) or n == "logit"]
        given |= {n: torch.from_numpy(np.asarray(given[n])) for n in tensors} | {differentiated(s): x}
        return partial(getattr(fdt, record.name), **given, **OPTIONS.get(record.name, {}))

    return _torch(
        record.name,
        made,
        SHAPES.get(record.name, flat),
        tuple(dtype for dtype in record.dtypes if dtype in FLOATS),
        lambda s: record.given(s)[differentiated(s)],
        record.backward is not None,
    )


def _module(name: str) -> Case:
    """A case of a module of p, training."""
    return _torch(name, lambda fdt, x, s: partial(getattr(fdt, name)(s.p), x), MODULE_SHAPES.get(name, flat))


def _dask(record: Record, backward: bool = False) -> Make:
    """A call of a noise's function, or its gradient, over four chunks, by dask's threads or none."""

    def forward(s: Given) -> Call:
        module = _integration("dask")
        import dask.array

        given = record.given(s, backward)
        first, x = next(iter(given.items()))
        chunks = (max(1, len(x) // 4), *x.shape[1:])
        given[first] = dask.array.from_array(x, chunks=chunks)
        lazy = getattr(module, f"{record.name}_backward" if backward else record.name)(**given)
        threads = importlib.import_module("fastdrop").get_num_threads()
        scheduler = "synchronous" if threads == 1 else "threads"
        return lambda: dask.compute(lazy, scheduler=scheduler, num_workers=threads)

    return forward


def _dask_case(record: Record) -> Case:
    made = _dask(record), _dask(record, True) if record.backward else None
    shape = rows if record.name == "bias_act_dropout" else _DASK_SHAPES.get(record.name, flat)
    return Case(f"dask__{record.name}", *made, shape, False, record.dtypes)


_DASK_SHAPES = {name: SHAPES[name] for name in ("drop_connect", "embedding_dropout")}  # others take any
CASES = [
    *(_function(record) for record in OF_FUNCTIONS.values() if "torch function" not in record.lacks),
    *(
        _module(name)
        for record in RECORDS.values()
        if "torch module" not in record.lacks
        for name in record.modules or [layer.__name__ for layer in record.layers]
        if name not in OTHER_MODULES
    ),
    *(_dask_case(record) for record in OF_FUNCTIONS.values() if "dask" not in record.lacks),
]
globals().update(timed(CASES))
