# make benchmark  which tasks to learn together, on rendered rooms: data, networks, scores, report in runs/quick; goes on where it stopped
# make study      every published table and figure, regenerated into out/
# make test       everything that is checked
# Others: make bench, notebooks, docs, lock, clean.  Another Python: make study PYTHON=python3.12

PYTHON ?= python3
BIN     = .venv/bin
PIP     = $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCK    = $(if $(filter Linux,$(shell uname -s)),-c constraints.txt)

.PHONY: benchmark study test bench notebooks readme docs lock clean
.DELETE_ON_ERROR:

# make benchmark PRESET=tiny takes a minute, PRESET=full some hours
PRESET ?= quick
benchmark: .venv/ready-user
	$(BIN)/its_a_match benchmark --preset $(PRESET) --installation $$(cat .venv/ready-user)

study: .venv/ready-user
	$(BIN)/its_a_match study --out out

test: .venv/ready-dev
	$(BIN)/python -m pytest

bench: .venv/ready-dev
	set -e; for f in benchmarks/*.py; do $(BIN)/python $$f; done

# Modules, outputs and README, all from the notebooks
notebooks: .venv/ready-dev
	$(BIN)/nbdev_export
	$(BIN)/python .ci/pages.py run
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/pages.py readme

readme: .venv/ready-dev
	$(BIN)/python .ci/pages.py readme

# The site, in _docs/ (with Quarto: nbdev_docs)
docs: .venv/ready-dev
	$(BIN)/python .ci/pages.py docs

# The newest versions of everything that settings.ini asks for, one version for all Pythons
lock: .venv/ready-dev
	$(PIP) uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --extra dev \
	    --upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links pyproject.toml -o .venv/lock
	{ sed -n '/^#/p' constraints.txt; sed 's/ ;.*//' .venv/lock; } > .venv/constraints && mv .venv/constraints constraints.txt

clean:
	rm -rf out _docs _proc build dist *.egg-info .pytest_cache .ruff_cache .hypothesis

# The set-up, once for every verb: .venv, then the package as a user gets it or with the tools of a developer
EXTRAS_user = [render]
EXTRAS_dev  = [dev]

.venv/ready-%: .venv/bin/python settings.ini setup.py pyproject.toml constraints.txt
	@echo "Installing into .venv, two or three minutes: PyTorch is large."
	@start=$$(date +%s); $(PIP) $(LOCK) -e '.$(EXTRAS_$*)' && echo $$(($$(date +%s) - start)) > $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2> /dev/null || \
	    { echo "its_a_match needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is none of them: name one, as in 'make $(MAKECMDGOALS) PYTHON=python3.12'."; exit 1; }
	$(PYTHON) -m venv .venv
