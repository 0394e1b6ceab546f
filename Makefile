# pykvm: `make help` lists the targets. Everything is installed into .venv, nothing outside this folder.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

SOURCES := pyproject.toml setup.py $(shell find pykvm -name '*.py' -o -name '*.c' -o -name '*.h' -o -name '*.cdef')

.PHONY: help hello test test-hostile test-stock test-lab shell-stock lint format check bench bench-linux guests clean

help:
	@echo 'make hello        install into .venv and boot guests/hello.bin'
	@echo 'make test         install into .venv and run the tests; ARGS="..." goes to pytest'
	@echo 'make test-hostile a million random accesses at every device; PYKVM_HOSTILE_SEED=N for others'
	@echo 'make test-stock   run the tests that run guests on a stock KVM, in the lab; ARGS="..." goes to pytest'
	@echo 'make test-lab     test the lab, and compare what guests do here and in it'
	@echo 'make shell-stock  a shell in the lab, with pykvm'
	@echo 'make lint         format, lint, types, import layers, docstrings'
	@echo 'make check        lint and test'
	@echo 'make format       put the code into the format that lint asks for'
	@echo 'make bench        measure the exit path against a bare C loop, and a whole boot'
	@echo 'make bench-linux  measure Linux to userspace against QEMU, in the lab'
	@echo 'make guests       assemble the guests, with .asm and .sym beside each'
	@echo 'make clean        remove everything that was built'

hello: $(VENV)/installed
	@$(BIN)/pykvm boot guests/hello.bin

test: $(VENV)/test-installed
	$(BIN)/python -m pytest $(ARGS)

test-hostile: $(VENV)/test-installed
	PYKVM_HOSTILE_ACCESSES=1000000 $(BIN)/python -m pytest -s tests/machine/test_hostile_guest.py $(ARGS)

# The tests that run guests, in the lab; not those of trace files and serial lines, where no KVM makes a difference and
# which take a third of the time. One process and no plugins: pytest alone takes seconds to start there.
STOCK_CLI := $(addprefix tests/cli/test_,boot.py boot_screen.py device_option.py doctor.py terminal.py terminal_trouble.py)
STOCK_TESTS := tests/kvm tests/machine tests/guests $(STOCK_CLI) tests/test_readme.py
test-stock: $(VENV)/test-installed
	PYKVM_HOSTILE_ACCESSES=20000 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 tests/lab/lab.py -- $(BIN)/python -m pytest -p no:cacheprovider -m kvm $(STOCK_TESTS) $(ARGS)

test-lab: $(VENV)/test-installed
	$(BIN)/python -m pytest tests/lab $(ARGS)

shell-stock: $(VENV)/installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" tests/lab/lab.py

lint: $(VENV)/lint-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/lint-installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: lint test

bench: $(VENV)/installed
	$(BIN)/python -m tests.bench $(ARGS)

bench-linux: $(VENV)/installed
	$(BIN)/python -m tests.bench.linux $(ARGS)

guests:
	$(MAKE) -C guests
	$(MAKE) -C guests/kernels

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f pykvm/_kvm/_binding.c pykvm/_kvm/*.so pykvm/_kvm/*.o
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	$(MAKE) -C guests clean
	$(MAKE) -C guests/kernels clean

# What a fresh machine may lack is asked for by name before anything is made.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo 'pykvm needs Python 3.10 or newer; Debian: apt-get install python3' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo 'pykvm needs Python 3.10 or newer, and $(PYTHON) is older; name another one with PYTHON=' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo 'pykvm needs the venv module; Debian: apt-get install python3-venv' >&2; exit 1; }
	@command -v cc >/dev/null || { echo 'pykvm needs a C compiler; Debian: apt-get install gcc libc6-dev' >&2; exit 1; }
	@echo '#include <linux/kvm.h>' | cc -E - >/dev/null 2>&1 || { echo 'pykvm needs the kernel headers; Debian: apt-get install linux-libc-dev libc6-dev' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || { echo 'pykvm needs the C headers of Python; Debian: apt-get install python3-dev' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable .
	@touch $@

$(VENV)/test-installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[test]'
	@touch $@

$(VENV)/lint-installed: $(VENV)/test-installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable '.[test,lint]'
	@touch $@
