# Needs Python 3.10 or later with venv, a C++17 compiler and, once, the network.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The native modules are rebuilt when one of these changes.
NATIVE := pyproject.toml CMakeLists.txt $(wildcard */CMakeLists.txt */native/* */native/*/*)
CLANG_FORMAT_FILES := $(foreach folder,/native/ /native/*/,$(wildcard $(foreach end,cpp h,\
	$(addsuffix $(folder)*.$(end),runtime rsrc tests/runtime))))

# Runs a command and prints a dot every two seconds; its exit status is that of the command.
with_dots = $(1) & pid=$$!; while kill -0 $$pid 2>/dev/null; do printf .; sleep 2; done; echo; wait $$pid

.PHONY: demo test test-page test-clients test-arm test-cross test-wheels lint format parity bench stubs clean

demo: $(VENV)/installed  ## compile and run the embedded example
	$(BIN)/rsrc demo

test: $(VENV)/installed  ## the whole suite, on all processors
	$(BIN)/pytest -n auto --ignore=tests/page

test-page: $(VENV)/page-installed  ## the chat page in a real browser; as root it installs Chromium
	$(BIN)/pytest tests/page

test-clients: $(VENV)-clients/installed  ## the examples of docs/clients.md
	$(VENV)-clients/bin/pytest tests/parity/test_clients.py

test-arm: $(VENV)/installed  ## on emulated ARM processors; as root it installs what it needs from Debian
	VENV=$(VENV) tests/arm/run

test-cross:  ## compiled for every system by zig's clang, and run where an emulator can
	PYTHON=$(PYTHON) tests/cross/run

test-wheels:  ## the sdist, and its wheels for every Python that is found
	tests/packages/run

lint: $(VENV)/lint-installed  ## ruff, mypy --strict, clang-format, committed stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=tests/support $(BIN)/python -m rsr_testing.documents $(VENV)/documents
	$(BIN)/mypy $(VENV)/documents  # the Python of README.md and docs/
	$(BIN)/clang-format --dry-run --Werror $(CLANG_FORMAT_FILES)
	mkdir -p $(VENV)/stubs
	$(BIN)/python -m nanobind.stubgen -q -m rsr_runtime._native -o $(VENV)/stubs/rsr_runtime.pyi
	$(BIN)/python -m nanobind.stubgen -q -m rsrc._native -o $(VENV)/stubs/rsrc.pyi
	diff -u runtime/rsr_runtime/_native.pyi $(VENV)/stubs/rsr_runtime.pyi  # if not: make stubs
	diff -u rsrc/_native.pyi $(VENV)/stubs/rsrc.pyi

format: $(VENV)/lint-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CLANG_FORMAT_FILES)

parity: $(VENV)/parity-installed  ## compare with transformers, live
	$(BIN)/pytest tests/parity

bench: $(VENV)/installed  ## one thread for NumPy too
	OPENBLAS_NUM_THREADS=1 $(BIN)/rsrc bench --shape 4096x4096

stubs: $(VENV)/lint-installed  ## after a change of a native module's signatures
	$(BIN)/python -m nanobind.stubgen -q -m rsr_runtime._native -o runtime/rsr_runtime/_native.pyi
	$(BIN)/python -m nanobind.stubgen -q -m rsrc._native -o rsrc/_native.pyi

$(VENV)/installed: $(NATIVE)
	@echo "1/3 creating the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "2/3 updating pip"
	@$(call with_dots,$(BIN)/python -m pip install --quiet --upgrade pip)
	@echo "3/3 compiling the kernels and installing; this takes two to three minutes"
	@$(call with_dots,$(BIN)/python -m pip install --quiet --editable '.[test]')
	@touch $@

# Order-only (after the |): a rebuild of the package does not reinstall the tools.
$(VENV)/lint-installed: pyproject.toml | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[lint]'
	touch $@

$(VENV)/parity-installed: pyproject.toml | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[parity]'
	touch $@

$(VENV)/page-installed: pyproject.toml | $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[page]'
	PYTHONPATH=tests/support $(BIN)/python -m rsr_testing.browser
	touch $@

$(VENV)-clients/installed: $(NATIVE)
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip install --quiet '.[clients]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-clients build
