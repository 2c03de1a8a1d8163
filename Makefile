# On a fresh machine: `make demo` runs the main job, `make demo-prompts` the one over prompts, `make test` all checks.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo demo-prompts test lint docs test-fast test-slow test-browser test-package fuzz dashboard bench clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

demo: install
	$(BIN)/fairsims retarget --attr gender --target 0.5

demo-prompts: install
	$(BIN)/fairsims retarget --model emoji-t2i --prompts emoji-t2i --attr gender --target 0.5 --positive always \
	  --guidance-scale 3 --steps 10 --sample-batch 64 --batch-size 32 --pool 48 --calibration 32 --audit 16 \
	  --budget 4.8 --agreement emoji-concept

test: install lint test-fast

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process per core, each with one thread: the networks of the tests are too small for more. They take files in the
# order that tests/conftest.py gives them: long ones first, so that none is left alone with one at the end.
test-fast: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist loadfile --no-loadscope-reorder

test-slow: install
	$(BIN)/pytest -m slow

test-browser: install
	$(BIN)/pytest -m browser

# The pages of build/site; a dead link and a missing section are errors. `make test` builds them, too.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo build/site/index.html

# Wheel and sdist, built and tried in an environment of their own: minutes, and a download of torch.
test-package: install
	$(BIN)/python tools/try_package.py

fuzz: install
	$(BIN)/pytest -m slow tests/data/test_fuzzing.py

dashboard: install
	$(BIN)/fairsims dashboard runs

bench: install
	$(BIN)/python bench/sampling.py
	$(BIN)/python bench/training.py
	$(BIN)/python bench/frechet.py
	$(BIN)/python bench/labelling.py
	$(BIN)/python bench/coverage.py

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
