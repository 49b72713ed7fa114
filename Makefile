# make train and make test work on a fresh clone. They need Python 3.11 or newer and a package registry.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
FUXICTR := .venv-fuxictr
DEEPCTR := .venv-deepctr
TORCHREC := .venv-torchrec

.PHONY: help setup train test bench bench-gpu parity notebooks lint format docs docs-serve clean

help:  ## list all targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## ?/  make \1\t/' | expand -t 20

setup: $(READY)  ## build .venv with everything the project needs

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + ": make setup PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)

train: $(READY)  ## train and test a model: make train ARGS="backbone=deepfm dataset=frappe"
	$(RUN) src/train.py $(ARGS)

test: $(READY)  ## run all tests: make test ARGS=tests/test_x.py for one file
	$(RUN) -m pytest $(ARGS)

bench: $(READY) $(FUXICTR)/.ready $(DEEPCTR)/.ready $(TORCHREC)/.ready  ## compare with plain alternatives and other libraries: ARGS="2000000 3" for fewer rows
	$(RUN) tests/benchmarks/bench.py
	$(RUN) tests/benchmarks/training.py
	$(RUN) tests/benchmarks/data.py $(ARGS)
	$(RUN) tests/benchmarks/criteo_data.py $(ARGS)
	$(RUN) tests/benchmarks/histories.py
	$(RUN) tests/benchmarks/serving.py
	$(RUN) tests/benchmarks/sharded.py

bench-gpu: $(READY)  ## compare the options of a training on a GPU
	$(RUN) tests/benchmarks/gpu.py $(ARGS)

parity: $(READY) $(FUXICTR)/.ready  ## train BARS' models here and in FuxiCTR, for hours: ARGS="--models deepfm --zoo FOLDER"
	$(RUN) tests/benchmarks/parity.py $(ARGS)

$(FUXICTR)/.ready:
	$(PYTHON) -m venv $(FUXICTR)
	$(FUXICTR)/bin/pip install --disable-pip-version-check torch==2.13.0
	$(FUXICTR)/bin/pip install --disable-pip-version-check fuxictr==2.3.10 "polars>=1.33,<2" aiohttp
	@touch $(FUXICTR)/.ready

$(DEEPCTR)/.ready:
	$(PYTHON) -m venv $(DEEPCTR)
	$(DEEPCTR)/bin/pip install --disable-pip-version-check torch==2.13.0
	$(DEEPCTR)/bin/pip install --disable-pip-version-check deepctr-torch==0.3.0 requests "polars>=2.1,<3"
	@touch $(DEEPCTR)/.ready

# --no-deps: fbgemm-gpu, which torchrec requires, is for GPUs
$(TORCHREC)/.ready:
	$(PYTHON) -m venv $(TORCHREC)
	$(TORCHREC)/bin/pip install --disable-pip-version-check torch==2.13.0 numpy tensordict torchmetrics==1.0.3 tqdm \
		pyre-extensions iopath psutil
	$(TORCHREC)/bin/pip install --disable-pip-version-check --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0
	@touch $(TORCHREC)/.ready

notebooks: $(READY)  ## run all notebooks and keep their outputs
	cd notebooks && ../$(VENV)/bin/jupyter execute --inplace --NotebookClient.record_timing=False *.ipynb

lint: $(READY)  ## check with ruff, mypy and codespell
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	$(RUN) -m codespell_lib

format: $(READY)  ## format and fix with ruff
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

docs: $(READY)  ## build the documentation in site/
	$(RUN) -m tf4ctr.experiments.reference_pages
	$(RUN) -m mkdocs build --strict

docs-serve: $(READY)  ## show the documentation at http://127.0.0.1:8000 while you write it
	$(RUN) -m mkdocs serve

clean:  ## remove .venv and caches; data/ and outputs/ stay
	rm -rf $(VENV) $(FUXICTR) $(DEEPCTR) .pytest_cache .mypy_cache .ruff_cache .hypothesis site
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
