# Two commands on a fresh machine: `make demo` and `make test`. Both create .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all gpu gpu-tests bench bench-int8 report tables lint format zoo cold-start clean help

help:
	@echo "make demo      export the bundled demo model, load the bundle, classify pictures, print a table"
	@echo "make test      run the tests (test-all: with the slow ones)"
	@echo "make lint      ruff and mypy"
	@echo "make zoo       export 34 architectures with random weights -> benchmarks/results/zoo.csv (hours; resumes)"
	@echo "make bench     every engine against eager PyTorch and the peers on this CPU, 10 minutes -> benchmarks/results/<machine>/"
	@echo "make bench-int8  int8 engines of ViT-B-32 against eager float32 and OpenVINO's own quantization"
	@echo "make gpu       the same on an NVIDIA GPU, with the tests that need one: make gpu OUT=folder PARTS=models,engines"
	@echo "make report    tables and plots of the rows; make tables writes the README's"
	@echo "make cold-start  export time and memory, import, load, first embedding"

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not gpu"

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "not gpu"

gpu: $(STAMP)
	$(BIN)/python -m benchmarks suite gpu $(if $(OUT),--out $(OUT)) $(if $(PARTS),--parts $(PARTS))

gpu-tests: $(STAMP)
	nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
	$(BIN)/python -m pytest -m gpu -s

bench: $(STAMP)
	$(BIN)/python -m benchmarks suite bench $(if $(OUT),--out $(OUT)) $(if $(PARTS),--parts $(PARTS))

bench-int8: $(STAMP)
	$(BIN)/python -m benchmarks suite int8 $(if $(OUT),--out $(OUT))

report: $(STAMP)
	$(BIN)/python -m benchmarks report

tables: $(STAMP)
	$(BIN)/python -m benchmarks tables

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

zoo: $(STAMP)
	$(BIN)/python -m benchmarks.zoo

cold-start: $(STAMP)
	$(BIN)/python -m benchmarks cold-start

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[export,rtx,bench,dev]' -c constraints.txt
	touch $(STAMP)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
