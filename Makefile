# Two commands from a fresh clone: `make demo` and `make test`. Both make their environment first.
# `make cuda-check` compiles the CUDA kernels without a GPU, in an environment of its own (1 GB).
# ARGS go to the demo's program: make demo ARGS=--help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test bench cuda-check clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/simple_network.py $(ARGS)

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: $(VENV)/.test
	$(BIN)/python -m fastdrop bench

cuda-check: .venv-cuda/.done
	.venv-cuda/bin/python benchmarks/gpu_check.py

.venv-cuda/.done: pyproject.toml
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --editable '.[cuda]' nvidia-cuda-nvcc
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-cuda build dist .mypy_cache .pytest_cache .ruff_cache
