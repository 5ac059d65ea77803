# From a fresh clone: `make demo`, `make examples`, `make test` and `make docs`. Each makes its environment first.
# `make cuda-check` compiles the CUDA kernels without a GPU, in an environment of its own (1 GB).
# ARGS go to the demo's program, and to pytest: make demo ARGS=--help, make test ARGS="-k gaussian".
# `make test` leaves out what is marked slow and some of what fuzzers try, `make test-all` nothing; `make fuzz`
# tries other examples of hypothesis's tests than these do, again and again for so many SECONDS.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What the measuring targets take: BASE and FACTOR of a comparison, ONLY a regular expression of benchmarks,
# COMMITS the last so many of REV; FASTDROP_GRID=full in the environment for the full grid.
ASV := $(BIN)/asv --config benchmarks/asv.conf.json
BASE ?= main
FACTOR ?= 1.3
ONLY ?= .
REV ?= HEAD
COMMITS ?= 5
SECONDS ?= 600
PYTEST := $(BIN)/python -m pytest --numprocesses logical --dist worksteal
SITE := out/dashboard
WEB := out/asv/web

EXAMPLES := simple_network regularized_network mnist_cnn compare_dropouts data_size fused_network concrete_rate \
	uncertainty char_rnn char_transformer data_parallel masks

.PHONY: demo examples check test test-all coverage fuzz bench bench-suite bench-compare bench-list dashboard results cuda-check \
	clean docs release-check
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	$(BIN)/python examples/simple_network.py $(ARGS)

# Ends by writing the results into examples/README.md.
examples: $(VENV)/.examples
	for name in $(EXAMPLES); do echo "$$name:" && $(BIN)/python examples/$$name.py || exit; done
	$(BIN)/python examples/results.py out

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(PYTEST) -m 'not slow' --hypothesis-profile=quick $(ARGS)

test-all: check
	$(PYTEST) $(ARGS)

# all tests, half as long again, and which lines and branches of the Python part none of them reached
coverage: $(VENV)/.test
	$(PYTEST) --cov --cov-report=term $(ARGS)

# What fails is kept in .hypothesis, and is tried first the next time, here or by pytest --hypothesis-profile=deep.
fuzz: $(VENV)/.test
	end=$$(($$(date +%s) + $(SECONDS))); while [ $$(date +%s) -lt $$end ]; do \
		$(PYTEST) -m hypothesis --hypothesis-profile=deep $(ARGS) || exit; done

bench: $(VENV)/.peers
	$(BIN)/python -m fastdrop bench $(ARGS)

# an hour or so, on a machine that does nothing else; then the README says what was found
results: $(VENV)/.peers
	mkdir -p out
	$(BIN)/python -m fastdrop bench --json --threads 1 2 --rounds 31 --seconds 60 --sizes \
		2^10 2^12 2^14 2^16 2^18 2^20 2^22 2^24 2^25 2^26 2^27 $(ARGS) > out/peers.json
	$(BIN)/python benchmarks/torch_steps.py --json --rounds 31 --threads 2 > out/torch_steps.json
	mv out/peers.json out/torch_steps.json benchmarks/results
	$(BIN)/python benchmarks/readme.py

bench-suite: $(VENV)/.bench
	$(ASV) machine --yes
	$(ASV) run --python=same --show-stderr --bench '$(ONLY)' $(ARGS)

# of committed states; fails if a benchmark of HEAD takes FACTOR times what it took in BASE, or more
bench-compare: $(VENV)/.bench
	$(ASV) machine --yes
	$(ASV) continuous --interleave-rounds --factor $(FACTOR) --bench '$(ONLY)' $(ARGS) $(BASE) HEAD

# the names of the benchmarks that ONLY chooses among; `make bench-suite ONLY=...` runs them
bench-list: $(VENV)/.bench
	@$(BIN)/python benchmarks/names.py

dashboard: $(VENV)/.bench $(WEB)/.done
	$(ASV) machine --yes
	mkdir -p out/asv
	git rev-list --first-parent --max-count=$(COMMITS) $(REV) > out/asv/commits
	$(ASV) run --skip-existing-successful --bench '$(ONLY)' $(ARGS) HASHFILE:$(CURDIR)/out/asv/commits
	$(ASV) publish
	$(BIN)/python benchmarks/front_page.py $(SITE)
	@echo 'To see it: $(BIN)/python -m http.server --directory $(SITE), then http://localhost:8000'

# asv's scripts, so that its pages need no internet; without npm they do, and the dashboard says so
$(WEB)/.done: benchmarks/web/package.json
	@mkdir -p $(WEB) && cp $< $(WEB)
	npm install --prefix $(WEB) --silent --no-audit --no-fund --ignore-scripts && touch $@ || true

cuda-check: .venv-cuda/.done
	.venv-cuda/bin/python benchmarks/gpu_check.py

.venv-cuda/.done: pyproject.toml
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet --editable '.[cuda]' nvidia-cuda-nvdisasm
	@touch $@

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.%: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

# All that the targets make; what hypothesis found to fail stays.
clean:
	rm -rf $(VENV) .venv-cuda build dist out .mypy_cache .pytest_cache .ruff_cache
	rm -rf docs/reference/api docs/reference/*.rst docs/gallery/pages

# The manual, into out/docs: open out/docs/index.html, also without a server.
docs: $(VENV)/.docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet --doctree-dir out/doctrees docs out/docs

# Builds what would be published, checks it, and installs each into a clean environment that runs the self-test.
# Fails at the end while the addresses in it are placeholders.
release-check: $(VENV)/.release
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m twine check --strict dist/*
	for package in $(CURDIR)/dist/*.whl $(CURDIR)/dist/*.tar.gz; do \
		rm -rf out/release && $(PYTHON) -m venv out/release && out/release/bin/pip install --quiet $$package && \
		(cd out/release && bin/python -m fastdrop selftest) || exit; done
	metadata=$$(ls out/release/lib/python3*/site-packages/fastdrop_numpy-*.dist-info/METADATA) && \
		! grep '\.invalid' $$metadata
