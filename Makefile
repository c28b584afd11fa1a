# Thin: everything here is also `python -m export ...` and `python -m runtime ...`.

TARGET  ?= android
MODEL   ?= tiny
RECIPE  ?= int4
FORMATS ?=
CONTEXT ?= 8192
REFERENCE ?= whole
# More options of the program, as it takes them: make verify OPTIONS="--baseline dist/last --junit verify.xml"
OPTIONS ?=
BUNDLE  ?= dist/$(TARGET)/$(notdir $(MODEL))-$(RECIPE)

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready

.PHONY: export verify chat bench test test-ios demo-ios lint clean

export: $(READY)
	$(RUN) -m export --target $(TARGET) --model $(MODEL) --recipe $(RECIPE) --formats "$(FORMATS)" --context $(CONTEXT) --reference $(REFERENCE) $(OPTIONS)

verify: $(READY)
	$(RUN) -m runtime verify $(BUNDLE) --reference $(REFERENCE) $(OPTIONS)

chat: $(READY)
	$(RUN) -m runtime chat $(BUNDLE) $(OPTIONS)

bench: $(READY)
	$(RUN) -m runtime bench $(BUNDLE)

test: $(READY)
	$(RUN) -m pytest

test-ios: $(READY)
	$(RUN) -m ios_demo.checks

demo-ios: TARGET = ios
demo-ios: $(READY)
	$(RUN) -m ios_demo.checks.place $(BUNDLE)

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf build dist

# torch goes into the same command as what needs it, or pip takes a CUDA build of several GB.
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e '.[dev]'
	touch $@
