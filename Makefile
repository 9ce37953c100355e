# Every target sets up its own environment in .venv first; nothing needs to be activated.
# On a machine without a GPU a smaller torch can be chosen with pip's own settings, for example PIP_EXTRA_INDEX_URL.

PYTHON ?= python3
OPEN_DATA ?= ../shared
BIN := .venv/bin
BUILT := .venv/.built
HARNESS := .venv/.harness
DOCS := .venv/.docs

.DELETE_ON_ERROR:
.PHONY: demo test docs bench weights clean .venv

demo: $(BUILT)
	$(BIN)/incontextseg demo --output demo-output

test: $(HARNESS) $(DOCS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=InContextSeg $(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2 --dist loadfile
	$(BIN)/python -m pytest -n 2 --dist load -m slow

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(BUILT)
	$(BIN)/python -m Testing.Benchmarks.bench

# OPEN_DATA: the folder in which the data lie that Resources/Recipes/open_data.toml lists.
weights: $(BUILT)
	$(BIN)/incontextseg train Resources/Recipes/default.toml --data $(OPEN_DATA) --output runs/default

.venv: $(BUILT)

# The mark is written last, so that an interrupted set-up starts over.
$(BUILT): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'InContextSeg needs Python 3.11 or newer; name one, as in: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --editable .
	touch $@

# What only the tests of the Slicer module need: large, so that the demonstration does without.
$(HARNESS): requirements-slicer.lock $(BUILT)
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements-slicer.lock
	touch $@

# What only the pages need, which `make docs` builds and a test.
$(DOCS): requirements-docs.lock $(BUILT)
	$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements-docs.lock
	touch $@

clean:
	rm -rf .venv build site dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis demo-output
	find InContextSegLib Testing -name __pycache__ -type d -prune -exec rm -rf {} +
