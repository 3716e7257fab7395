# make demo     simulate an atlas, integrate it, compare with PCA and Harmony;
#               DATA=file.h5ad BATCH=column LABEL=column: integrate a file of yours instead
# make test     everything that must hold before a change goes in, on the built wheel
# make dev      set up .venv for development; make check and make quick use it
#
# Needs Python 3.11 or newer and make. .venv holds the dependencies and the editable
# package; .venv-test holds the wheel alone and borrows the dependencies, so that tests
# see what users install and not the checkout.

PYTHON ?= $(shell .ci/find-python)
BIN := .venv/bin
# Errors only: what else pip says is about the machine, not about this project.
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
# One more than there are processors: tests that kill and wait leave theirs to others.
PROCESSES = $(shell $(PYTHON) -c "import os; print(min(4, 1 + os.cpu_count()))")
ROOMS := kernels storage scaling src
# Folders too: their times tell of files that went away.
SOURCES := $(shell find $(ROOMS) -not -path '*/__pycache__*' -not -path '*.egg-info*')

.PHONY: demo test dev check lint types quick wheel lock clean

dev: .venv/installed

demo: .venv/installed
	@$(BIN)/python benchmarks/demo.py $(if $(DATA),--data "$(DATA)") \
		$(if $(BATCH),--batch-key "$(BATCH)") $(if $(LABEL),--label-key "$(LABEL)")

test: lint
	@$(MAKE) --no-print-directory --jobs 2 types .venv-test/compiled
	.venv-test/bin/python -P -m pytest --numprocesses $(PROCESSES) --dist loadfile \
		--no-loadscope-reorder $(PYTEST)

check: lint types

quick: .venv/installed
	$(BIN)/pytest -q -x -m "not (slow or data or gpu or slurm)" $(PYTEST)

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell

# Type checkers do not follow an editable install whose folders are renamed, so the
# package is put together from links: mypy_path in pyproject.toml points at them.
types: .venv/installed
	@rm -rf .typing && mkdir -p .typing/tigon
	@ln -s $(CURDIR)/src/tigon/* $(addprefix $(CURDIR)/,kernels storage scaling) .typing/tigon/
	$(BIN)/mypy -p tigon

wheel: .venv-test/installed

lock:
	.ci/lock python3.11 python3.12 python3.13

clean:
	rm -rf .venv .venv-test .typing build dist demo *.egg-info .mypy_cache .pytest_cache .ruff_cache

.venv/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/pip || { test -n "$(PYTHON)" && "$(PYTHON)" -m venv .venv; }
	@echo "Installing the dependencies into .venv (a minute or two the first time)"
	@$(PIP) install --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The wheel is built from the source distribution, which shows that both are whole.
.venv-test/installed: .venv/installed $(SOURCES)
	@echo "Building the wheel and installing it into .venv-test"
	@rm -rf dist .venv-test
	@$(BIN)/python -m build --no-isolation --outdir dist > .venv/build.log 2>&1 \
		|| { cat .venv/build.log; exit 1; }
	@$(BIN)/python -m venv --without-pip .venv-test
	@$(PIP) --python .venv-test/bin/python install --no-deps --no-index dist/*.whl
	@$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> "$$(.venv-test/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/dependencies.pth"
	@touch $@

# Beside the checks, since each process of the tests would compile for itself.
.venv-test/compiled: .venv-test/installed tests/compile_kernels.py
	@echo "Compiling the kernels that most tests need"
	@.venv-test/bin/python tests/compile_kernels.py
	@touch $@
