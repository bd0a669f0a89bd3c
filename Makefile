# make setup   create .venv, install the dependencies and Detectron2, and compile the kernels
# make demo    train a small detector on generated images, evaluate it and draw its predictions
# make lint    check style, format and types of the code
# make test    lint, then run the tests in one process per core
# make clean   remove the files of building and testing (but not .venv and results)
#
# Each step writes a stamp in .venv and is repeated only if its dependencies have changed.
# Variables: PYTHON, VIT_ADAPTER_BUILD (see setup.py), DETECTRON2_ARCHIVE (a downloaded source
# archive of Detectron2 v0.6), PYTEST_ARGS (-n 0: all tests in one process).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VIT_ADAPTER_BUILD ?= auto
export VIT_ADAPTER_BUILD

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
STAMPS := $(VENV)/.stamps
TOOLS := projects/ViTAdapter/tools
INSTALLER := projects/ViTAdapter/vit_adapter/install_detectron2
REPORT := projects/ViTAdapter/vit_adapter/build_report.txt

DEMO_CONFIG := configs/quick_start/mask_rcnn_vit_adapter_shapes.py
DEMO_RESULTS := output/quick_start
DEMO_PICTURES := output/demo

.PHONY: setup demo lint test clean FORCE
.DELETE_ON_ERROR:

setup: $(STAMPS)/extension

$(STAMPS)/environment:
	@test -n "$(PYTHON)" || { echo "No Python found: install Python 3.11, or set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	  echo "$(PYTHON) is older than Python 3.11, which requirements.txt needs: set PYTHON=..." >&2; exit 1; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/requirements: requirements.txt $(STAMPS)/environment
	@echo "== dependencies (several gigabytes on the first run) =="
	$(PIP) install -r requirements.txt
	@touch $@

$(STAMPS)/detectron2: $(TOOLS)/install_detectron2.py $(wildcard $(INSTALLER)/*.py) $(STAMPS)/requirements
	@echo "== Detectron2 =="
	$(RUN) $(TOOLS)/install_detectron2.py $(if $(DETECTRON2_ARCHIVE),--archive "$(DETECTRON2_ARCHIVE)")
	@touch $@

# Holds the value of VIT_ADAPTER_BUILD, and is newer than the extension only if the value changed.
$(STAMPS)/build-choice: FORCE | $(STAMPS)/environment
	@echo "$(VIT_ADAPTER_BUILD)" | cmp -s - $@ || echo "$(VIT_ADAPTER_BUILD)" > $@

$(STAMPS)/extension: setup.py pyproject.toml $(wildcard csrc/*.* csrc/*/*.*) $(STAMPS)/build-choice $(STAMPS)/detectron2
	@echo "== vit_adapter and its kernels (about a minute) =="
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@test ! -f $(REPORT) || { echo; sed '/^$$/q' $(REPORT); echo "All output: $(REPORT)"; echo; }
	@touch $@

demo: setup
	$(RUN) train_net.py --config-file $(DEMO_CONFIG) train.output_dir=./$(DEMO_RESULTS)
	$(RUN) $(TOOLS)/demo.py --config-file $(DEMO_CONFIG) \
	  --weights $(DEMO_RESULTS)/model_final.pth --output $(DEMO_PICTURES) \
	  --limit 20 --montage $(DEMO_PICTURES)/overview.png
	@echo
	@echo "Pictures of the predictions: $(DEMO_PICTURES)/"
	@echo "Model, metrics and logs:     $(DEMO_RESULTS)/"

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# One thread per process: more threads than cores would slow each other down.
test: setup lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist worksteal --durations=15 $(PYTEST_ARGS)

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis projects/ViTAdapter/*.egg-info
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
