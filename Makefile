PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
DEMO_BIN = .cache/demo-venv/bin
DEMO_READY = .cache/demo-venv/.ready
GPU_BIN = .cache/gpu-venv/bin
GPU_READY = .cache/gpu-venv/.ready
PIP_INSTALL = python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test test-long test-slow test-gpu coverage lint docs wheel-smoke release clean
.DEFAULT_GOAL := help

# This list.
help:
	@awk '/^# / { if (!said) said = substr($$0, 3); next } \
	  /^[a-z-]+:/ { if (said) { sub(/:.*/, "", $$1); sub(/[.:] .*|[.:]$$/, "", said); printf "  make %-12s %s\n", $$1, said } } \
	  { said = "" }' $(firstword $(MAKEFILE_LIST))

# Install what a user has, and no more; damage a photograph and a face, restore them, and say where the pictures are.
demo: $(DEMO_READY)
	$(DEMO_BIN)/frugal-rt demo -o demo

# The tests of every change, by two processes of a thread each, at most five minutes a test.
test: $(READY)
	OMP_NUM_THREADS=1 FRUGAL_RT_THREADS=1 $(BIN)/python -m pytest -n 2 --timeout 300

# The tests that take longer or need every core, one after another, at most ten minutes a test.
test-long: $(READY)
	$(BIN)/python -m pytest -m "long and not slow and not gpu" --timeout 600

# Exporting and restoring at 256x256: minutes, and many GB.
test-slow: $(READY)
	$(BIN)/python -m pytest -m "slow and not gpu"

# Every backend of a CUDA machine; then times and the effect of half precision, into .cache/gpu. In a venv of its own, as
# onnxruntime-gpu replaces onnxruntime.
test-gpu: $(GPU_READY)
	FRUGAL_RT_TRIAL_SECONDS=240 $(GPU_BIN)/python -m pytest -m gpu tests/gpu
	FRUGAL_RT_TRIAL_SECONDS=240 $(GPU_BIN)/python tests/gpu/figures.py -o .cache/gpu

# Lines and branches of the package that `make test` runs, by pytest-cov; processes that a test starts are not counted.
coverage: $(READY)
	OMP_NUM_THREADS=1 FRUGAL_RT_THREADS=1 $(BIN)/python -m pytest -n 2 --timeout 600 --cov=. --cov-config=pyproject.toml --cov-report=term

# Style, the first words of docstrings, types, and which way imports go. mypy and import-linter see the tree through a link, because the package's root is the repository's.
lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/check_words.py
	mkdir -p .cache && ln -sfn .. .cache/frugal_rt
	$(BIN)/python -m mypy
	cd .cache && $(abspath $(BIN))/lint-imports ../pyproject.toml --no-cache --no-logo

# The site, into .cache/site: a link or an anchor that leads nowhere fails, a ragged table, a file or name that is gone, a command line that does not parse, and a
# docs/cli.md that is not the commands' help. The sources are copied so that .venv is not read with them.
docs: $(READY)
	$(BIN)/python .ci/write_cli.py --check
	$(BIN)/python .ci/check_docs.py
	rm -rf .cache/api && mkdir -p .cache/api/frugal_rt
	cp -r __init__.py engines runtime export .cache/api/frugal_rt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

# Build the wheel; export with it in an empty venv, and restore in one without torch, by that plan and by the package's own.
wheel-smoke: $(READY)
	rm -rf build dist .cache/full .cache/lean .cache/smoke && mkdir -p .cache/smoke
	$(BIN)/python -m build --wheel --outdir dist . >.cache/smoke/build.log || { cat .cache/smoke/build.log; exit 1; }
	$(PYTHON) -m venv .cache/full && .cache/full/bin/$(PIP_INSTALL) "$$(ls dist/*.whl)[cpu,export]"
	$(PYTHON) -m venv .cache/lean && .cache/lean/bin/$(PIP_INSTALL) "$$(ls dist/*.whl)[cpu]"
	cd .cache/smoke && ../full/bin/frugal-rt export --model celeba
	cd .cache/smoke && cp "$$(../full/bin/python -c 'from frugal_rt.runtime.pictures.images import PORTRAIT; print(PORTRAIT)')" clean.png
	cd .cache/smoke && ../full/bin/frugal-rt degrade clean.png --task sr --scale 4 -o y.png
	cd .cache/smoke && ! ../lean/bin/python -c 'import torch' 2>/dev/null
	cd .cache/smoke && ../lean/bin/frugal-rt restore --engine celeba.plan y.png --steps 20
	cd .cache/smoke && ../lean/bin/frugal-rt export --model celeba -o lean.plan
	cd .cache/smoke && ../lean/bin/frugal-rt degrade clean.png --task denoise --noise 25 -o noisy.png && ../lean/bin/frugal-rt restore noisy.png

# Build sdist and wheel, the wheel from the sdist, and check their texts and their files.
release: $(READY)
	rm -rf build dist
	$(BIN)/python -m build --outdir dist . >.cache/build.log || { cat .cache/build.log; exit 1; }
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python .ci/check_release.py dist

# Remove everything that make made.
clean:
	rm -rf $(VENV) .cache demo build dist *.egg-info

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/$(PIP_INSTALL) -e '.[cpu,openvino,export,test,docs]'
	$(BIN)/$(PIP_INSTALL) -e '.[rtx]' || echo "tensorrt-rtx does not install here: its tests will be skipped"
	touch $@

$(DEMO_READY): pyproject.toml
	mkdir -p .cache && $(PYTHON) -m venv .cache/demo-venv
	.cache/demo-venv/bin/python -m pip install --disable-pip-version-check --progress-bar off '.[cpu,eval]' | sed -n 's/^Installing collected packages/installing/p'
	touch $@

$(GPU_READY): pyproject.toml
	mkdir -p .cache
	$(PYTHON) -m venv .cache/gpu-venv
	$(GPU_BIN)/$(PIP_INSTALL) -e '.[rtx,export,test]' onnxruntime-gpu
	$(GPU_BIN)/$(PIP_INSTALL) -e '.[gpu]' || echo "tensorrt does not install here: its tests will be skipped"
	touch $@
