# make setup | demo | test | check | gpu-check | clean
#
# The virtual environment is made in .venv with the versions of constraints.txt; a second call costs nothing.
# Tests run in two processes with one thread each; `make test WORKERS=4` takes four.
# On a GPU machine, `make setup TORCH=torch` takes the CUDA build of PyTorch instead of the pinned CPU build.
# There, `make gpu-check` runs the tests and benchmarks for GPUs in at most six minutes and writes gpu_check/table.md.
# Where the package index has no CPU build, add: TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: setup demo test check gpu-check clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,9s/^# \{0,1\}//p' Makefile

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "gen3d needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --upgrade 'pip>=24' 'setuptools>=77' wheel
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	DS_BUILD_OPS=0 $(PIP) install --constraint constraints.txt --editable '.[dev,tracking,mlflow,wandb,deepspeed,sweep,export,parquet,genetics,dicom,masks,serve]'
	@touch $@

demo: $(READY)
	$(BIN)/gen3d demo out=demo

test: $(READY)
	$(BIN)/ruff check gen3d tests analysis
	$(BIN)/ruff format --check gen3d tests analysis
	$(BIN)/lint-imports
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile \
	  --no-loadscope-reorder --durations 25

check: test

gpu-check: $(READY)
	$(BIN)/python analysis/benchmarks/gpu_check.py --out gpu_check

clean:
	rm -rf .venv demo gpu_check build *.egg-info
