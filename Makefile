# Each target sets up .venv by itself: when it is missing, and again when requirements.lock has changed.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
READY := .venv/requirements.lock
PINNED := --require-hashes --no-deps -r
LOCKING := --extra=dev --universal --generate-hashes --python-version=3.11 --no-header --no-annotate --no-emit-index-url
# uv, from the PATH or from .venv, and where it cannot be had or reaches no registry, pip. uv compiles modules only where asked to,
# as pip does; where Python may not write what it compiles, each process would do it again
install = PATH="$(BIN):$$PATH" uv pip install --quiet $(2) --python=$(BIN)/python $(1) || $(PIP) install --root-user-action=ignore $(1)
SPLIT ?= 10p
SEED ?= 0
SUITES ?=
# JupyterLab asks for no news and looks for no newer version of itself
LAB_SETTINGS := .venv/share/jupyter/lab/settings
QUIET := {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}
# what the committed evidence is made with; for another data set: make evidence EVIDENCE="--dataset animals7 --data-root DIR --seeds 0,1"
EVIDENCE ?= --dataset shapes --splits 10p,1p,2p,5p,20p,30p,40p,50p --seeds 0,1,2 --ablations all

.PHONY: help setup lock lock-check demo test test-whole test-all lab bench gpu evidence readme

help:
	@echo "make demo    the whole pipeline on the built-in data set, with short schedules (SPLIT=10p SEED=0); 5 to 7 minutes on two cores with bf16 instructions, about 9 without"
	@echo "make test    the tests and the notebooks' examples"
	@echo "make test-whole  the tests of whole runs, several processes and kills, which CI runs beside make test"
	@echo "make test-all  both, and the long versions of some tests"
	@echo "make lab     JupyterLab, opened at the tour of the method"
	@echo "make bench   how fast it is against plain versions: benchmarks/results.md (SUITES=\"nms targets\" for some)"
	@echo "make gpu     all that wants a GPU, in under 8 minutes: checks and speeds, in outputs/gpu/page.md"
	@echo "make evidence  the committed runs/ and figures/ again, for maintainers; many hours"
	@echo "make readme  README.md from nbs/index.ipynb, its tables from runs/ and figures/"
	@echo "make setup   only .venv, with the versions of requirements.lock"
	@echo "make lock    requirements.lock from settings.ini (UV_FLAGS=--upgrade for newer versions); make lock-check tries it for Linux and macOS"

setup: $(READY)

$(READY): requirements.lock settings.ini
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@echo "Setting up .venv, a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	@command -v uv > /dev/null || $(PIP) install --root-user-action=ignore $(PINNED) .venv/uv.txt || true
	@$(call install,$(PINNED) requirements.lock,--compile-bytecode)
	@$(call install,--no-deps --no-build-isolation -e .)
	@cp requirements.lock $(READY)

lock: $(READY)
	@PATH="$(BIN):$$PATH" uv pip compile setup.py $(LOCKING) --quiet --output-file=requirements.lock $(UV_FLAGS)

lock-check: $(READY)
	@$(BIN)/python -m pytest -q -m network tests/test_lock.py

demo: $(READY)
	@$(BIN)/pointwssis reproduce --dataset demo --split $(SPLIT) --seed $(SEED)

TESTS := $(BIN)/python -m pytest -q --numprocesses=auto --dist=loadfile --no-loadscope-reorder --unchanged

test: $(READY)
	@$(TESTS) tests

test-whole: $(READY)
	@$(TESTS) -m "whole and not slow" tests

test-all: $(READY)
	@$(TESTS) -m "not network" tests

lab: $(READY)
	@mkdir -p $(LAB_SETTINGS) && echo '$(QUIET)' > $(LAB_SETTINGS)/overrides.json
	@$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --notebook-dir=. --LabApp.default_url=/lab/tree/nbs/00_tour.ipynb

bench: $(READY)
	@$(BIN)/python -m benchmarks $(SUITES)

gpu: $(READY)
	@$(BIN)/python -m benchmarks.gpu

evidence: $(READY)
	@$(BIN)/pointwssis reproduce $(EVIDENCE) --runs runs --same-code
	@$(BIN)/pointwssis report --slim --runs runs
	@$(BIN)/pointwssis report --verify --runs runs

readme: $(READY)
	@$(BIN)/jupyter nbconvert --log-level=ERROR --to=notebook --execute --inplace nbs/index.ipynb
	@$(BIN)/nbdev_clean --fname nbs/index.ipynb
	@$(BIN)/jupyter nbconvert --log-level=WARN --config=nbs/readme_config.py nbs/index.ipynb
