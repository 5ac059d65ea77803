"""PyTorch with its own dropout, with fastdrop's, and without: calls, training steps and memory, in turns.

fastdrop comes in by its modules, which `replace_dropout` puts into a model, and by `install`.

python benchmarks/torch_steps.py [--rounds 31] [--threads 1] [--json]
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from common import BUILDS, report, run, show, turns_of_a_build, turns_of_attention
from torch import nn
from torch.nn import functional

import fastdrop as fd
import fastdrop.torch as fdt
from fastdrop._tools.bench import seconds_in_turns

Step = Callable[[], object]
WITHIN = {"install()": fdt.install}  # a contender's turns are within its context


def calls(rounds: int, small: bool) -> None:
    """One module, forward alone and with backward, by elements: loops of a million elements or more."""
    torch.set_num_threads(fd.get_num_threads())
    keep_freed_memory()
    for size in (64,) if small else (1 << 10, 1 << 16, 1 << 22):
        number = 1 if small else max(1, (1 << 20) // size)
        modules = {
            "fastdrop": fdt.Dropout(0.5),
            "install()": nn.Dropout(0.5),
            "torch.nn": nn.Dropout(0.5),
            "p=0": nn.Dropout(0.0),
        }
        for what, call in (("forward", forward), ("forward and backward", forward_and_backward)):
            steps = {name: call(module, size) for name, module in modules.items()}
            report(f"Dropout {what}, {size:,}", steps, rounds, number, WITHIN)


def keep_freed_memory() -> None:
    """Free one tensor of nearly 32 MiB, as a training process has done before long.

    From then on glibc keeps up to 64 MiB that were freed. Before, it gave two outputs of 16 MiB back to the
    system after each call, whose pages then took four times as long as both passes over them.
    """
    torch.empty((1 << 23) - (1 << 12))


def forward(module: nn.Module, size: int) -> Step:
    """A call without a graph."""
    x = torch.randn(size)
    return lambda: module(x)


def forward_and_backward(module: nn.Module, size: int) -> Step:
    """A call, and the gradient with respect to its input."""
    x, g = torch.randn(size).requires_grad_(), torch.randn(size)
    return lambda: torch.autograd.grad(module(x), x, g)


class Attention(nn.Module):
    """Causal self-attention that drops its probabilities by a module."""

    def __init__(self, width: int, heads: int, length: int, p: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(p)
        self.register_buffer("future", torch.full((length, length), -torch.inf).triu(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, width = x.shape
        size = width // self.heads  # of a head
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, size).permute(2, 0, 3, 1, 4).flatten(1, 2)
        scores = torch.baddbmm(self.future, q, k.transpose(1, 2), alpha=size**-0.5)
        y = self.drop(scores.softmax(-1)) @ v
        return self.project(y.view(n, self.heads, t, size).transpose(1, 2).reshape(n, t, width))


class Block(nn.Module):
    """A transformer's block, normalised first, with dropout before each sum."""

    def __init__(self, width: int, heads: int, length: int, p: float) -> None:
        super().__init__()
        attention = Attention(width, heads, length, p)
        self.attend = nn.Sequential(nn.LayerNorm(width), attention, nn.Dropout(p))
        inner = nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        self.think = nn.Sequential(nn.LayerNorm(width), *inner, nn.Dropout(p))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(x)
        return x + self.think(x)


class CharacterGPT(nn.Module):
    """A small language model of characters, with its loss."""

    def __init__(self, layers: int, width: int, heads: int, length: int, characters: int, p: float) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, width), nn.Embedding(length, width)
        blocks = (Block(width, heads, length, p) for _ in range(layers))
        self.body = nn.Sequential(nn.Dropout(p), *blocks, nn.LayerNorm(width))
        self.head = nn.Linear(width, characters)

    def forward(self, text: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        places = torch.arange(text.shape[1])
        logits = self.head(self.body(self.embed(text) + self.place(places)))
        return functional.cross_entropy(logits.flatten(0, 1), following.flatten())


class Classifier(nn.Sequential):
    """Two hidden layers with dropout before each linear one, and the loss."""

    def __init__(self, hidden: int, rates: tuple[float, float, float]) -> None:
        first, second, third = map(nn.Dropout, rates)
        middle = nn.Linear(784, hidden), nn.ReLU(), second, nn.Linear(hidden, hidden), nn.ReLU()
        super().__init__(first, *middle, third, nn.Linear(hidden, 10))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(super().forward(x), labels)


def training(model: nn.Module, *batch: torch.Tensor) -> Step:
    """A step of training on one batch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)  # the fastest form

    def step() -> None:
        optimizer.zero_grad()
        model(*batch).backward()
        optimizer.step()

    return step


def compare(name: str, make: Callable[[], nn.Module], batch: tuple[torch.Tensor, ...], rounds: int) -> None:
    """Steps of four copies of a model: the medians over its builds of medians of turns."""
    torch.set_num_threads(fd.get_num_threads())
    turns = turns_of_a_build(rounds)
    builds = range(min(BUILDS, rounds))
    found = [seconds_in_turns(contenders(make(), batch), turns, within=WITHIN) for _ in builds]
    show(name, {label: 1e6 * statistics.median(times[label] for times in found) for label in found[0]}, "us")


def contenders(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> dict[str, Step]:
    """A step of the model without dropout, with fastdrop's modules or kernels, and with its own."""
    ours, under, none = copy.deepcopy(model), copy.deepcopy(model), copy.deepcopy(model)
    fdt.replace_dropout(ours)
    for module in none.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    models = {"p=0": none, "fastdrop": ours, "install()": under, "torch.nn": model}
    return {label: training(m, *batch) for label, m in models.items()}


def gpt(rounds: int, small: bool) -> None:
    """A character GPT of 4 layers, width 128 and 4 heads, on 16 texts of 128 characters."""
    layers, width, heads, texts, length = (1, 8, 2, 2, 8) if small else (4, 128, 4, 16, 128)
    batch = torch.randint(65, (2, texts, length)).unbind()
    make = partial(CharacterGPT, layers, width, heads, length, 65, 0.1)
    compare("character GPT, a step", make, batch, rounds)


def mlp(rounds: int, small: bool) -> None:
    """A network 784-1024-1024-10 with the rates .2, .5, .5, on 128 images."""
    images = 2 if small else 128
    batch = torch.randn(images, 784), torch.randint(10, (images,))
    make = partial(Classifier, 8 if small else 1024, (0.2, 0.5, 0.5))
    compare("MLP, a step", make, batch, rounds)


class Encoder(nn.Module):
    """PyTorch's own transformer encoder, and a loss."""

    def __init__(self, layers: int, width: int, heads: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, 0.1, batch_first=True)
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).square().mean()


def encoder(rounds: int, small: bool) -> None:
    """nn.TransformerEncoder of 4 layers, width 256 and 4 heads, on 8 texts of 128 places."""
    layers, width, heads, texts, length = (1, 8, 2, 2, 8) if small else (4, 256, 4, 8, 128)
    make = partial(Encoder, layers, width, heads)
    compare("nn.TransformerEncoder, a step", make, (torch.randn(texts, length, width),), rounds)


class LanguageModel(nn.Module):
    """A model of the library transformers, with random weights and that library's rates, and its loss."""

    def __init__(self, family: str, **sizes: int) -> None:
        super().__init__()
        import transformers

        config, kind, loss = {
            "BERT": (transformers.BertConfig, transformers.BertForMaskedLM, "ForMaskedLM"),
            "GPT-2": (transformers.GPT2Config, transformers.GPT2LMHeadModel, "ForCausalLM"),
        }[family]
        self.body = kind(config(**sizes))
        self.body.loss_type = loss  # which transformers doesn't find by GPT-2's name, and then warns

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return self.body(input_ids=text, labels=text).loss


def bert(rounds: int, small: bool) -> None:
    """BERT of 4 layers, width 256 and 4 heads, on 8 texts of 128 characters, if transformers is there."""
    if find_spec("transformers") is None:
        return
    layers, width, heads, texts, length = (1, 8, 2, 2, 8) if small else (4, 256, 4, 8, 128)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "vocab_size": 65}
    sizes |= {"num_hidden_layers": layers, "num_attention_heads": heads}
    make = partial(LanguageModel, "BERT", **sizes)
    compare("BERT, a step", make, (torch.randint(65, (texts, length)),), rounds)


def gpt2(rounds: int, small: bool) -> None:
    """GPT-2 of 4 layers, width 256 and 4 heads, on 2 texts of 512 characters or 1 of 1,024.

    Its attention is PyTorch's function, of which `install` takes the calls that drop weights. It is measured
    if transformers is there.
    """
    if find_spec("transformers") is None:
        return
    layers, width, heads = (1, 8, 2) if small else (4, 256, 4)
    for texts, length in ((2, 8), (1, 16)) if small else ((2, 512), (1, 1024)):
        sizes = {"n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": length, "vocab_size": 65}
        make = partial(LanguageModel, "GPT-2", **sizes, bos_token_id=0, eos_token_id=0)
        compare(f"GPT-2 over {length:,}, a step", make, (torch.randint(65, (texts, length)),), rounds)


def attention(rounds: int, small: bool) -> None:
    """Attention of 8 heads of 64, forward and backward, over 2,048 places in all; p = .1."""
    torch.set_num_threads(fd.get_num_threads())
    theirs, ours = functional.scaled_dot_product_attention, fdt.scaled_dot_product_attention
    for length in (8,) if small else (256, 1024, 2048):
        shape = 1 if small else 2048 // length, 8, length, 64
        for causal in (False, True):
            attend = partial(attending, shape, causal)
            steps = {"p=0": attend(theirs, 0.0), "fastdrop": attend(ours, 0.1)}
            steps |= {name: attend(theirs, 0.1) for name in ("install()", "torch.nn")}
            name = f"{'causal ' if causal else ''}attention over {length:,}, forward and backward"
            report(name, steps, turns_of_attention(rounds), within=WITHIN)


def attending(shape: tuple[int, ...], causal: bool, attend: Callable[..., torch.Tensor], p: float) -> Step:
    """A call of attention, and its gradients."""
    inputs, g = [torch.randn(shape, requires_grad=True) for _ in range(3)], torch.randn(shape)
    return lambda: torch.autograd.grad(attend(*inputs, dropout_p=p, is_causal=causal), inputs, g)


PEAK = """
import sys, torch, fastdrop.torch as fdt
make, p = (fdt if sys.argv[1] == "fastdrop" else torch.nn), 0.0 if sys.argv[1] == "p=0" else 0.5
module = make.Dropout(p)
if sys.argv[1] == "install()":
    fdt.install()
def step(size):
    x = torch.ones(size, requires_grad=True)
    module(x).sum().backward()
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
step(1024)
before = peak()
step(int(sys.argv[2]))
print(peak() - before)
"""


def memory(rounds: int, small: bool) -> None:
    """Peak memory of a forward and backward pass, its input included, in a process for each; Linux only."""
    if sys.platform != "linux":
        return
    size = 1 << (20 if small else 25)
    command = [sys.executable, "-c", PEAK]
    peaks = {
        name: int(subprocess.check_output([*command, name, str(size)])) / 1024
        for name in ("fastdrop", "install()", "torch.nn", "p=0")
    }
    show(f"peak memory, {size:,}", peaks, "MiB")


PARTS = (gpt, mlp, encoder, bert, gpt2, attention, calls, memory)

if __name__ == "__main__":
    run(PARTS, __doc__, apart=True)
