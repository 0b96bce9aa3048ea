# Each target works on a fresh machine with Python 3.10 or later, a C compiler and make; it makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check bench clean
demo: .venv/installed
	$(BIN)/python tests/demo.py .demo

test: check .tensorrt-bindings/installed
	$(BIN)/python -m pytest

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/installed
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-sort=name
	$(BIN)/python benchmarks/second_question.py

.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,faces,train,export,test,oracles,dev]'
	touch $@

# the tests that need them are skipped where the wheels cannot be had
.tensorrt-bindings/installed: tests/tensorrt_wheels.py .venv/installed
	-$(BIN)/python tests/tensorrt_wheels.py .tensorrt-bindings && touch $@

clean:
	rm -rf .venv .demo .tensorrt-bindings build *.egg-info
