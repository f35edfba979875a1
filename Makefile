# Two commands on a fresh machine: `make demo` and `make test`. Both create .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FLOOR := .venv-floor
FLOOR_STAMP := $(FLOOR)/.installed

# Machines with a GPU often have no package index: there, what is installed is all there is.
HERE = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))


CPP_OUT ?= build

.PHONY: cpp cpp-asan fuzz cpp-lint demo test test-long test-ci test-all test-floor gpu gpu-tests gpu-kit bench bench-int8 report tables lint format zoo cold-start clean help

help:
	@echo "make demo      export the bundled demo model, load the bundle, classify pictures, print a table"
	@echo "make test      run the fast tests (test-long: those that take long or a compiler; test-ci: both; test-all: all that need no GPU)"
	@echo "make test-floor  the tests that depend on versions, with the lowest ones that pyproject.toml allows (PYTHON_FLOOR=python3.12)"
	@echo "make cpp       the C++ library, its engine modules and programs -> build/ (cpp-asan: its tests with sanitizers; fuzz: 60 s a target)"
	@echo "make lint      ruff and mypy"
	@echo "make zoo       export all 144 architectures with random weights -> benchmarks/results/zoo.csv (hours; resumes)"
	@echo "make bench     every engine against eager PyTorch and the peers on this CPU, 10 minutes -> benchmarks/results/<machine>/"
	@echo "make bench-int8  int8 engines of ViT-B-32 against eager float32 and OpenVINO's own quantization"
	@echo "make gpu       the same on an NVIDIA GPU, with the tests that need one: make gpu OUT=folder PARTS=models,engines"
	@echo "make gpu-kit   wheels for a machine with a GPU and no package index: benchmarks/GPU.md"
	@echo "make report    tables and plots of the rows; make tables writes those of README.md and docs/"
	@echo "make cold-start  export time and memory, import, load, first embedding"

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo

# A worker that dies is not replaced: pytest-xdist 3.8 then waits for ever for the tests of its files. Files are handed out in the
# order of tests/file_order.py, the longest first.
PYTEST = -m pytest -n auto --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "not long and not slow and not gpu" $(PYTEST_FLAGS)

test-long: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "long and not slow and not gpu" $(PYTEST_FLAGS)

# Both in one session, as CI runs them: what the tests share is made once, and no worker waits for the end of the first half.
test-ci: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m "not slow and not gpu" $(PYTEST_FLAGS)

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "not gpu"

# Everything that a version can break: graphs, packages and their programs, preprocessing and tokenizers, the gate, and kernels as they
# are traced, interpreted and compiled. Left out are figures of one compiler (registers, spills), what is our own arithmetic whatever the
# versions (metrics, datasets, quantization, the rows of benchmarks), and engines that the floor environment does not hold (TensorRT).
FLOOR_TESTS := $(addprefix tests/engines/test_,$(addsuffix .py,aotinductor_packed aotinductor_runtime caller_inputs cli embedder forks manifest \
	npz_files onnx_external_data openvino_runtime preprocess resize shared_images tokenizer verify verify_ids verify_pixels)) $(addprefix \
	tests/exporter/test_,$(addsuffix .py,aotinductor checkpoint_names checkpoints convert_checkpoint kernels_option onnx_graph packed_text parity_data passes pipeline polygraphy precision source_checkpoints source_names source_random_weights source_tags standard_output text_rules tokenizer_json \
	towers unfit_checkpoints)) $(addprefix tests/kernels/test_,$(addsuffix .py,attention attention_interpreted compiler_caches normalize_image package \
	rowwise_kernels rowwise_ops swap swap_interpreted)) tests/test_floor.py

test-floor: $(FLOOR_STAMP)
	OMP_NUM_THREADS=1 $(FLOOR)/bin/python $(PYTEST) -m "not slow and not gpu" $(FLOOR_TESTS)

cpp: $(STAMP)
	@$(BIN)/python engines/cpp/tools/build.py --out $(CPP_OUT)

# The tests that drive the C API, against a library with AddressSanitizer and UndefinedBehaviorSanitizer. Python itself is not built with
# them, so the sanitizers' libraries come first. -O1 with line numbers builds in half the time of -O2 -g, and the tests take as long.
# Leaks are left to the fuzz targets, because Python keeps memory until its end.
ASAN_FLAGS := -O1 -g1
cpp-asan: $(STAMP)
	$(BIN)/python engines/cpp/tools/build.py --quiet --out build-asan -- -DOCE_SANITIZE=address,undefined \
	  -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="$(ASAN_FLAGS)" -DCMAKE_C_FLAGS_RELWITHDEBINFO="$(ASAN_FLAGS)"
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 OCE_TEST_FOLDER=$(CURDIR)/build-asan \
	  $(BIN)/python $(PYTEST) -p no:cacheprovider tests/cpp -m "not slow" -k "not speed" $(PYTEST_FLAGS)

FUZZ_SECONDS ?= 60
fuzz: $(STAMP)
	$(BIN)/python engines/cpp/tools/build.py --quiet --out build-fuzz -- -DOCE_FUZZ=ON -DOCE_TOOLS=OFF -DOCE_ONNXRUNTIME=OFF -DOCE_OPENVINO=OFF -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++
	$(BIN)/python engines/cpp/tools/run_fuzz.py --folder build-fuzz/fuzz --seconds $(FUZZ_SECONDS)

cpp-lint:
	clang-format --dry-run --Werror $$(git ls-files 'engines/cpp/*.cpp' 'engines/cpp/*.hpp' | grep -v -e text/tables.cpp -e embed_aotinductor.cpp)
	$(BIN)/python engines/cpp/tools/run_tidy.py --folder build

gpu:
	@$(HERE) -m benchmarks suite gpu $(if $(OUT),--out $(OUT)) $(if $(PARTS),--parts $(PARTS)) $(if $(MINUTES),--minutes $(MINUTES))

gpu-tests:
	@nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || \
	  { echo "error: no NVIDIA GPU answers here (nvidia-smi is missing or fails): run this on a machine with one" >&2; exit 1; }
	$(HERE) -m pytest -m gpu -s

gpu-kit:
	@$(HERE) -m benchmarks.suites.gpu_kit

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
	$(BIN)/mypy tests/typed_api.py

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
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[export,rtx,bench,sentence-transformers,dev]' -c constraints.txt
	touch $(STAMP)

$(FLOOR_STAMP): pyproject.toml tests/floor.py
	$(PYTHON) tests/floor.py $(FLOOR)
	touch $(FLOOR_STAMP)

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
