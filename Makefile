# make quickstart   install into .venv and run the three steps: the largest plan that takes about ten minutes here
# make test         install what the tests need and run them, in a process for each core (ARGS="-n0 tests/data": in one)
# make bench        measure Trine beside its peers (bench/README.md); ARGS="generation --shape mini" selects
# make bench-peers  build llama.cpp for it and install trl (three versions), each in an environment of its own
# make bench-gpu    the GPU rows and the tests marked gpu, at most 8 minutes, with the python that has PyTorch; nothing is installed
# make race         our pretraining against transformers.Trainer, to the same loss; ARGS="--tokens 8000000" selects
# make lint         ruff, mypy, import-linter, forbidden calls
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: quickstart test bench bench-peers bench-gpu race lint format clean

quickstart: $(VENV)/installed
	$(BIN)/trine quickstart $(ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal $(ARGS)

bench: $(VENV)/installed-bench
	TRINE_LLAMA_PYTHON=$${TRINE_LLAMA_PYTHON:-$(wildcard $(VENV)/llama/bin/python)} \
	TRINE_TRL_PYTHON=$${TRINE_TRL_PYTHON:-$(wildcard $(VENV)/trl/bin/python)} \
	TRINE_TRL_0_11_PYTHON=$${TRINE_TRL_0_11_PYTHON:-$(wildcard $(VENV)/trl-0.11/bin/python)} \
	TRINE_TRL_0_24_PYTHON=$${TRINE_TRL_0_24_PYTHON:-$(wildcard $(VENV)/trl-0.24/bin/python)} \
	$(BIN)/python -m bench $(ARGS)

bench-peers: $(VENV)/llama/installed $(VENV)/trl/installed $(VENV)/trl-0.11/installed $(VENV)/trl-0.24/installed

bench-gpu:
	PYTHONPATH=src $(PYTHON) -m bench.gpu $(ARGS)

race: $(VENV)/installed-bench
	test -f runs/race/rows/race.json || $(BIN)/python -m bench.race prepare
	for runner in ours trainer-fp32 trainer-bf16; do $(BIN)/python -m bench.race $$runner $(ARGS) || exit 1; done
	$(BIN)/python -m bench.race table

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	! grep -rnE "import pickle|pickle\.load|torch\.load\(|allow_pickle=True|trust_remote_code=True" src

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -e '.[dev]'
	touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(INSTALL) -e '.[bench]'
	touch $@

$(VENV)/llama/installed: constraints.txt
	$(PYTHON) -m venv $(VENV)/llama
	$(VENV)/llama/bin/python -m pip install --disable-pip-version-check -c constraints.txt llama-cpp-python==0.3.36
	touch $@

$(VENV)/trl/installed: constraints.txt
	$(PYTHON) -m venv $(VENV)/trl
	$(VENV)/trl/bin/python -m pip install --disable-pip-version-check -c constraints.txt trl==1.16.0
	touch $@

$(VENV)/trl-0.11/installed:
	$(PYTHON) -m venv $(VENV)/trl-0.11
	$(VENV)/trl-0.11/bin/python -m pip install --disable-pip-version-check trl==0.11.4 transformers==4.45.2 torch==2.13.0 rich
	touch $@

$(VENV)/trl-0.24/installed:
	$(PYTHON) -m venv $(VENV)/trl-0.24
	$(VENV)/trl-0.24/bin/python -m pip install --disable-pip-version-check trl==0.24.0 transformers==4.57.1 torch==2.13.0
	touch $@

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache
