# `make demo` trains, exports and scores a small detector; `make test` runs the tests. Each makes its own
# environment in .venv on first use.

# Python compiles what it imports; pip would compile all of torch, twice.
export PIP_NO_COMPILE := 1

VENV ?= .venv
PYTHON ?= python3
RUN := $(VENV)/bin/python
NPU_VENV ?= .venv-npu

# PyPI's Linux wheels of torch bring gigabytes of CUDA libraries. The +cpu build is asked for by its full
# version, so that pip can install nothing else: from where pip is set up to look, or from PyTorch's own index.
TORCH := torch==2.13.0$(if $(filter Linux,$(shell uname -s)),+cpu)
CPU_WHEELS := https://download.pytorch.org/whl/cpu

# As many tests at once as there are cores, each with one thread; a file's tests share what they train. Not reordered:
# files with the fewest tests would come last, which are the slowest, and one core would wait for the other.
PYTEST := -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: demo fuzz kills environments test test-aarch64 test-npu test-slow lint format docs clean

demo: $(VENV)/.installed
	$(RUN) tools/train_graph.py --data shapes --preset ssd300-nano --recipe shapes --cpus 1 --out demo --overwrite
	$(RUN) export/to_onnx.py demo/last.pth --out demo/model.onnx
	$(RUN) tools/eval_onnx.py demo/model.onnx --data shapes --report

test: $(VENV)/.installed-dev $(if $(filter Linux,$(shell uname -s)),test-npu)
	OMP_NUM_THREADS=1 $(RUN) $(PYTEST)

# torch_npu changes what `import torch` does, so its tests have an environment of their own. All else is taken from
# the first one.
test-npu: $(NPU_VENV)/.installed-npu
	OMP_NUM_THREADS=1 $(NPU_VENV)/bin/python $(PYTEST) tests/npu

# Damaged files for everything that reads files from others; `python -m tests.fuzz --help` says how to look further.
fuzz: $(VENV)/.installed-dev
	$(RUN) -m tests.fuzz --cases 560

# Short runs killed at random moments and resumed: 300 kills, all with the bits of an undisturbed run.
kills: $(VENV)/.installed-dev
	$(RUN) -m tests.training.kills

test-slow: $(VENV)/.installed-dev $(if $(filter Linux,$(shell uname -s)),$(NPU_VENV)/.installed-npu)
	$(RUN) -m pytest -m slow --timeout 3600
	test ! -d $(NPU_VENV) || $(NPU_VENV)/bin/python -m pytest -m slow --timeout 3600 tests/npu

# The tests on an emulated aarch64 machine: hours, and as root. The script says what it needs and takes pytest's arguments.
test-aarch64:
	PYTHON=$(PYTHON) CPU_WHEELS=$(CPU_WHEELS) tests/aarch64.sh

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pyright --pythonpath $(RUN)
	$(VENV)/bin/lint-imports --no-cache

format: $(VENV)/.installed-dev
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Links are checked without a network: those to other sites for their form only.
docs: $(VENV)/.installed-dev
	$(RUN) -m zensical build --strict
	$(RUN) -m pytest -q tests/test_links.py

environments: $(VENV)/.installed-dev $(NPU_VENV)/.installed-npu

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "This is too old a Python; name one from 3.11 on: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -q "$(TORCH)" 2>/dev/null || $(RUN) -m pip install -q "$(TORCH)" --index-url $(CPU_WHEELS)
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(RUN) -m pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(RUN) -m pip install -q -c constraints.txt -e ".[dev]"
	touch $(VENV)/.installed $@

PACKAGES := -c "import sysconfig; print(sysconfig.get_path('purelib'))"
$(NPU_VENV)/.installed-npu: $(VENV)/.installed-dev
	$(PYTHON) -m venv $(NPU_VENV)
	$(RUN) $(PACKAGES) > "$$($(NPU_VENV)/bin/python $(PACKAGES))/first.pth"
	$(NPU_VENV)/bin/python -m pip install -q -c constraints.txt -e ".[npu]"
	touch $@

clean:
	rm -rf $(VENV) $(NPU_VENV) demo build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .cache
