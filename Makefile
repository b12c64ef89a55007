# On a fresh clone `make demo` is enough: it creates .venv, installs with the pinned versions, and goes.
# Needs Python >= 3.11 with venv, and make. Settings: make PYTHON=python3.12, make PIP_FLAGS="--extra-index-url ...".
PYTHON    ?= python3
VENV      ?= .venv
EXTRAS    ?= dev,postgres
PIP_FLAGS ?=
ARGS      ?=
# Tests of Ray, of servers and of kills wait a third of their time: three keep two cores busy, where memory is enough.
PROCESSES ?= $(firstword $(shell awk '/^MemAvailable/ {n = $$2 > 12 * 2^20 ? 3 : 2} END {print n ? n : 2}' /proc/meminfo 2>/dev/null || echo 2))
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed

export RAY_USAGE_STATS_ENABLED = 0
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# What is installed is compiled when it is first imported (bench/install.py), and what comes of it has to be kept;
# where that is forbidden to processes outside of make, they find at least what campaigns begin with.
export PYTHONDONTWRITEBYTECODE =
BEGIN_WITH = lm_eval.evaluator, lm_eval.models.huggingface, numba, ray, scipy.optimize, scipy.stats, sympy, torch._dynamo

.PHONY: help install demo test test-gpu faults simulate check fix bench bench-ray bench-scaling bench-search bench-campaign oracle clean
help:
	@echo "make demo | test | test-gpu | faults | simulate | check | fix | bench | bench-ray | bench-scaling | bench-search | bench-campaign | oracle | install | clean   (ARGS=... is handed on)"

# The stamp is touched last: an installation that failed half way is tried again.
install: $(STAMP)
$(STAMP): pyproject.toml constraints.txt
	@echo 'installing the pinned versions into $(VENV): a minute or two the first time'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -c constraints.txt pip setuptools uv
	$(BIN)/python -m bench.install $(BIN)/python $(PIP_FLAGS) -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	$(BIN)/python -c 'import $(BEGIN_WITH)'
	touch $@

demo: $(STAMP)
	$(BIN)/mergefleet demo $(ARGS)

# Offline on purpose: a test that needs the network is a test that fails on somebody's machine. tests/conftest.py orders
# the files: xdist would begin those with few tests last, which are the slow ones.
test: $(STAMP)
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

# The tests that say something about a GPU, on the one of this machine.
test-gpu: $(STAMP)
	MERGEFLEET_TEST_DEVICE=cuda HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 TRANSFORMERS_OFFLINE=1 $(BIN)/python -m pytest -q \
		tests/engine/execution/test_gpu.py tests/engine/execution/test_checksum.py \
		tests/search/evaluators/test_resident.py tests/search/evaluators/test_loading.py \
		tests/search/evaluators/test_floor.py tests/search/evaluators/test_demo_tasks.py $(ARGS)

# What `make test` does in a minute, for half an hour: a hundred kills of merges and of campaigns each, and every fault of
# nodes (as root).
faults: $(STAMP)
	MERGEFLEET_FAULTS=1 $(BIN)/python -m pytest -q tests/cluster/test_nodes.py
	PYTHONPATH=. $(BIN)/python tests/support/kill_runs.py --kills 70 $(ARGS)
	PYTHONPATH=. $(BIN)/python tests/support/kill_runs.py --kills 30 --storage bucket $(ARGS)
	PYTHONPATH=. $(BIN)/python tests/support/campaign_kills.py --kills 100

# What docs/search.md says of verdicts and fleets, from whole campaigns without models: about an hour of two cores.
simulate: $(STAMP)
	PYTHONPATH=. $(BIN)/python tests/support/campaign_simulations.py null --repetitions 1000
	PYTHONPATH=. $(BIN)/python tests/support/campaign_simulations.py power --repetitions 200
	PYTHONPATH=. $(BIN)/python tests/support/campaign_simulations.py fleet

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python -m bench $(ARGS)

# How throughput grows with nodes whose links are capped; as root, with nginx.
bench-scaling: $(STAMP)
	$(BIN)/python -m bench.scaling $(ARGS)

# what Ray adds to a merge, as a slope over two sizes of model
bench-ray: $(STAMP)
	$(BIN)/python -m bench.overhead $(ARGS)

# The search beside mergekit-evolve's algorithm, ten seeds on two families: hours; goes on where it stopped.
bench-search: $(STAMP)
	$(BIN)/python -m bench.search $(ARGS)

# What a campaign costs besides evaluating: the demo's, in this process; ARGS=--ray: on a Ray.
bench-campaign: $(STAMP)
	$(BIN)/python -m bench.search_overhead $(ARGS)

# mergekit 0.1.5 in a virtual environment of its own, for tests/conformance and bench
oracle: $(STAMP)
	$(BIN)/python -m bench.oracle

# Removes what make and the tools made; outputs of merges and campaigns stay.
clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
