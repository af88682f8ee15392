# Everything here needs only Python 3.10 or later with venv, a C++17 compiler and the network once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# What an installation is made from: the native module is built again when one of these changes.
NATIVE := pyproject.toml CMakeLists.txt $(wildcard */CMakeLists.txt */native/*)
CLANG_FORMAT_FILES := $(wildcard runtime/native/*.cpp runtime/native/*.h rsrc/native/*.cpp rsrc/native/*.h)

.PHONY: demo test lint format parity bench stubs clean

demo: $(VENV)/installed  ## compile and run the embedded example
	$(BIN)/rsrc demo

test: $(VENV)/installed  ## the whole suite
	$(BIN)/pytest

lint: $(VENV)/lint-installed  ## ruff, mypy --strict, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CLANG_FORMAT_FILES)

format: $(VENV)/lint-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CLANG_FORMAT_FILES)

parity: $(VENV)/parity-installed  ## compare with transformers, live
	$(BIN)/pytest tests/parity

bench: $(VENV)/installed  ## NumPy on one thread too, which is fair to it
	OPENBLAS_NUM_THREADS=1 $(BIN)/rsrc bench --shape 4096x4096

stubs: $(VENV)/lint-installed  ## after a change of a native module's signatures
	$(BIN)/python -m nanobind.stubgen -m rsr_runtime._native -o runtime/rsr_runtime/_native.pyi
	$(BIN)/python -m nanobind.stubgen -m rsrc._native -o rsrc/_native.pyi

$(VENV)/installed: $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

$(VENV)/lint-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[lint]'
	touch $@

$(VENV)/parity-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[parity]'
	touch $@

clean:
	rm -rf $(VENV) build
