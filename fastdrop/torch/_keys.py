"""Keys as PyTorch needs them: as tensors, for graphs of torch.compile, and from torch's own generator."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex, TypeAlias, TypeVar, cast

import torch

from fastdrop._arrays import device
from fastdrop._stream.keys import DRAW_BITS, Key, Rng, as_key, as_key_or_seed, checked_key, next_draw, signed

Tensor: TypeAlias = torch.Tensor
T = TypeVar("T")

# Modules without a key of their own take random draws of one seed. Draws below 2**48 all have the Philox key
# of their seed, which is cached. Another random seed for each would cost more than the rest of a call.
# Of a million draws two are alike once in five hundred runs.
SEED, _DRAWS = 0x746F726368, 1 << DRAW_BITS
_CPU = torch.device("cpu")


def key_tensor(key: Key | SupportsIndex) -> Tensor:
    """Return the key as a tensor, which functions take too: in `torch.compile` it may change.

    A Key or an int is a constant there: a graph is compiled for the first, and again for each other.

    Parameters
    ----------
    key : Key or int
        As for `fastdrop.dropout`.

    Returns
    -------
    Tensor
        1-D, of int64, on the CPU: the draw, then the seed's 64-bit words, low first.

    Examples
    --------
    >>> import torch, fastdrop as fd, fastdrop.torch as fdt
    >>> fdt.key_tensor(fd.Key(42, draw=7))
    tensor([ 7, 42])
    >>> fdt.dropout(torch.ones(6), 0.5, fdt.key_tensor(fd.Key(42)))
    tensor([0., 0., 2., 2., 2., 2.])
    """
    if isinstance(key, DeviceKey):
        return key.memory
    key = as_key_or_seed(key)
    words = [signed(key.seed >> place) for place in range(0, max(key.seed.bit_length(), 1), 64)]
    with torch.inference_mode(False):  # whose tensors no graph may change or keep for a gradient later
        return torch.tensor([signed(key.draw), *words], dtype=torch.int64, device=_CPU)


def key_by(rng: Rng, name: str = "rng") -> Key:
    """The key that a module takes from what a user gives as rng, or under another name."""
    if isinstance(rng, torch.Generator):
        raise TypeError(
            f"{name} must be None, an int, a Key or a generator of NumPy's, got torch.Generator; omit rng to "
            "follow torch's generator"
        )
    return as_key(rng, name)


def held_by_module(rng: Rng, name: str = "rng") -> Tensor | None:
    """The same as a tensor, or None for torch's generator."""
    return None if rng is None else key_tensor(key_by(rng, name))


def outside_transforms(function: Callable[[], T]) -> T:
    """What a function of keys returns, with which the transforms of torch.func have nothing to do."""
    if not torch._C._are_functorch_transforms_active():
        return function()
    with torch._C._DisableFuncTorch():
        return function()


_WHY = (
    "graphs can't hold fastdrop's noises under transforms of torch.func, nor their draws with an "
    "activation_memory_budget below 1, which would draw again in the backward pass"
)


def _called(function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """What a function returns, outside of the graphs of torch.compile."""
    return function(*arguments, **options)


# As torch.compiler.disable(reason=_WHY) makes it, which would import all of torch.compile, in two seconds.
eagerly = torch._disable_dynamo(_called)
eagerly._torchdynamo_disable, eagerly._torchdynamo_disable_msg = True, _WHY


def drawn_eagerly() -> bool:
    """Whether torch.compile is at work, and has to leave draws out of its graphs."""
    return torch.compiler.is_dynamo_compiling() and (
        torch._C._are_functorch_transforms_active() or torch._functorch.config.activation_memory_budget < 1
    )


def drawn(key: T) -> T | Tensor:
    """A key that a module drew. Under vmap it is what each row of a batch gets, as vmap's randomness says.

    Where rows are to differ it is a tensor of a key for each, also if the module's input is the same for all,
    as in an ensemble. Vmaps that come later, as those of `torch.func.jacrev`, find one key and share it.
    """
    if not torch._C._are_functorch_transforms_active():
        return key
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    vmaps = [
        functorch.CVmapInterpreterPtr(each) for each in stack if each.key() == functorch.TransformType.Vmap
    ]
    if any(vmap.randomness() == functorch.RandomnessType.Error for vmap in vmaps):
        raise RuntimeError('vmap refuses a module that draws its mask; use randomness="different" or "same"')
    if vmaps and isinstance(key, DeviceKey):
        raise RuntimeError("a CUDA graph can't capture a module's draws under vmap; use a loop over the rows")
    batches = [vmap for vmap in vmaps if vmap.randomness() == functorch.RandomnessType.Different]
    if not batches:
        return key
    sizes = [vmap.batchSize() for vmap in batches]
    given = key if isinstance(key, torch.Tensor) else key_tensor(cast(Key, key))
    tensor = outside_transforms(lambda: keys_of_rows(given, sizes))
    for vmap in batches:
        tensor = functorch._add_batch_dim(tensor, 0, vmap.level())
    return tensor


@torch.library.custom_op(
    "fastdrop::keys_of_rows", mutates_args=(), schema="(Tensor key, int[] sizes) -> Tensor"
)
def keys_of_rows(key: Tensor, sizes: Sequence[int]) -> Tensor:
    """The key of each row of a batch, or of batches within batches, as a tensor with an axis for each."""
    keys = [key_of(key)]
    for size in sizes:
        keys = [each.fold_in(row) for each in keys for row in range(size)]
    return torch.stack([key_tensor(each) for each in keys]).view(*sizes, -1)


@keys_of_rows.register_fake
def _(key: Tensor, sizes: Sequence[int]) -> Tensor:
    return key.new_empty((*sizes, 2))


def check_tensor(key: Tensor) -> None:
    """Refuse a tensor that is no key."""
    fewest = 1 if device.is_there(key) else 2
    if key.dtype is not torch.int64 or key.is_nested or key.dim() != 1 or len(key) < fewest:
        shape = "" if key.is_nested else f" with shape {tuple(key.shape)}"
        got = f"a {'nested ' if key.is_nested else ''}tensor of {key.dtype}{shape}"
        raise TypeError(f"key must be a Key, an int or what key_tensor returns, got {got}")


def held(key: Key | SupportsIndex | Tensor, checked: bool = False) -> Tensor:
    """The key as a tensor, which operators take; they check it themselves, unless they are never run."""
    if not isinstance(key, torch.Tensor):
        return key_tensor(key)
    if checked or key.is_nested:
        check_tensor(key)
    return key


def key_of(tensor: Tensor) -> Key:
    """The key that `key_tensor` was given."""
    check_tensor(tensor)
    if device.is_there(tensor) and len(tensor) == 1:
        return DeviceKey(tensor)
    draw, *seed = tensor.tolist()
    if len(seed) == 1 and seed[0] >= 0 and draw >= 0:  # the usual case first
        return Key(seed[0], draw)
    return Key(sum(word % (1 << 64) << 64 * place for place, word in enumerate(seed)), draw % (1 << 64))


@torch.library.custom_op("fastdrop::next_key", mutates_args=("key",), schema="(Tensor(a!) key) -> Tensor")
def next_key(key: Tensor) -> Tensor:
    """The key as it is now. The tensor then holds that of the next draw.

    It is an operator because inductor would make a mere clone again for the backward pass, from the tensor
    that then holds the next key.
    """
    refuse_recomputation()
    now = key.clone()
    key.numpy()[0] = signed(next_draw(key_of(key).draw))
    return now


@next_key.register_fake
def _(key: Tensor) -> Tensor:
    return torch.empty_like(key)


def refuse_recomputation() -> None:
    """Raise in a backward pass: only checkpoint calls a forward there, and needs the first one's mask."""
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "a module with rng was called in a backward pass, where checkpoint needs its former mask; pass "
            "checkpoint use_reentrant=False, context_fn=lambda: fastdrop.torch.checkpoint_contexts(model), "
            "or leave rng out, as in torch.compile"
        )


def plain_key(key: Any) -> Any:
    """The key as functions of arrays take it."""
    return key_of(key) if isinstance(key, torch.Tensor) else key


def random_key(x: Tensor) -> Key:
    """A key for a tensor from torch's generator, which torch.manual_seed and checkpoint set."""
    return DeviceKey.drawn(x.device) if captured(x) else checked_key(SEED, random_draw())


def captured(x: Tensor) -> bool:
    """Whether what is done with a tensor goes into a CUDA graph, which will do it again and again."""
    return device.is_there(x) and device.is_captured(x)


class DeviceKey(Key):
    """A random key whose draw is a number in a GPU's memory, which nobody here has seen.

    A captured CUDA graph has the numbers that a kernel was given when it was captured. So the draw is one of
    PyTorch's own operations there, of which each replay makes another number, and kernels read it. Forward
    and backward share it.
    """

    __slots__ = ("address", "memory")
    address: int
    memory: Tensor

    def __init__(self, memory: Tensor) -> None:
        super().__init__(SEED)
        object.__setattr__(self, "memory", memory)  # which is kept for as long as the key
        object.__setattr__(self, "address", memory.data_ptr())

    @classmethod
    def drawn(cls, where: torch.device) -> DeviceKey:
        """A new one on a GPU."""
        return cls(device_draw(where))

    def __getattribute__(self, name: str) -> Any:
        if name in ("fold_in", "split", "next", "antithetic"):
            raise RuntimeError(f"a key that a CUDA graph draws has no {name}: its number isn't known")
        return super().__getattribute__(name)


def device_draw(where: torch.device) -> Tensor:
    """The number of a random draw in the memory of a GPU, as a tensor that functions take as a key."""
    return torch.randint(_DRAWS, (1,), dtype=torch.int64, device=where)


_REMEMBERED = 1 << 17
_drawn: OrderedDict[int, None] = OrderedDict()  # the latest draws of graphs, in their order


@torch.library.custom_op("fastdrop::drawn_key", mutates_args=(), schema="(Tensor draw) -> Tensor")
def _drawn_key(draw: Tensor) -> Tensor:
    """The key of a random draw.

    A compiler may put the draw into the backward pass too, rather than keep the key until then. That is right
    where it sets the generator back, as checkpoint does; otherwise the draw is one that never was.
    """
    number = int(draw)
    if torch._C._current_graph_task_id() == -1:
        _drawn[number] = None
        if len(_drawn) > _REMEMBERED:
            _drawn.popitem(last=False)  # in one step, since threads may draw at once
    elif number not in _drawn:
        raise RuntimeError(
            "a compiled model drew the mask of dropout again in its backward pass, and got another; leave "
            "torch._functorch.config.activation_memory_budget at 1"
        )
    return torch.tensor([number, SEED], device=_CPU)


@_drawn_key.register_fake
def _(draw: Tensor) -> Tensor:
    return draw.new_empty(2)


def random_key_tensor() -> Tensor:
    """The same as a tensor, for a graph of torch.compile."""
    if drawn_eagerly():
        return eagerly(random_key_tensor)
    key: Tensor = _drawn_key(torch.randint(_DRAWS, (1,), device=_CPU))
    return key


class _Own(threading.local):
    """The tensor that a thread draws into. A new tensor for each draw would take twice as long."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.draw = torch.empty((), dtype=torch.int64, device=_CPU)
            self.number = self.draw.numpy()


_own = _Own()


def random_draw() -> int:
    """The number of a random draw of the seed."""
    _own.draw.random_(_DRAWS)
    number: int = _own.number.item()
    return number
