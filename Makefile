# From a fresh clone: `make demo`, `make examples` and `make test`. Each makes its environment first.
# ARGS go to the demo's program: make demo ARGS=--help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

EXAMPLES := simple_network regularized_network mnist_cnn compare_dropouts data_size fused_network concrete_rate \
	uncertainty char_rnn masks

.PHONY: demo examples test bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/simple_network.py $(ARGS)

# Ends by writing the results into examples/README.md.
examples: $(VENV)/.examples
	for name in $(EXAMPLES); do echo "$$name:" && $(BIN)/python examples/$$name.py || exit; done
	$(BIN)/python examples/results.py out

test: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: $(VENV)/.test
	$(BIN)/python -m fastdrop bench

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
