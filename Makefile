VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# setuptools warns at length that an editable install is one.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet

.PHONY: demo test check clean

demo: $(VENV)/.installed  ## install, then the whole job on a generated shop
	$(BIN)/mmrec demo

test: $(VENV)/.installed-dev  ## install, then the tests
	$(BIN)/pytest -q

check: $(VENV)/.installed-dev  ## lint, formatting, types and the documentation's links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --site-dir build/docs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info
