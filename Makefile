# make demo    environment, install, the main job on the embedded dataset
# make test    environment, install, all checks
# make check   format, lint, types, tests (layers among them)
#
# Measurements, some minutes each; their results are kept in docs/. DATA are archives of datasets, NNUNET is a virtual
# environment with nnU-Net 2.8.1 (pip install nnunetv2==2.8.1), and pydantic for agreement, autoseg for speed-training.
# make costs                             memory and time beside what is predicted
# make budgets DATA="ARCHIVE ..."        what times of training buy; half an hour of a core per dataset
# make ablation DATA=ARCHIVE             what each choice of the recipe brings; an hour of a core
# make prediction-memory                 peak memory of predicting a large scan with 100 classes
# make kill-test                         kills a training at 20 random moments, compares what it ends with
# make kill-run                          kills a whole run at 10 random moments, compares what it ends with
# make agreement NNUNET=...              plans of random fingerprints beside nnU-Net's
# make agreement-data NNUNET=... DATA=ARCHIVE      fingerprints beside nnU-Net's; nnU-Net trains exported plans
# make speed NNUNET=... DATA=HIPPOCAMPUS MODELS=FOLDER      the five below
# make speed-planning NNUNET=... DATA=ARCHIVE      planning beside nnU-Net
# make speed-training NNUNET=... DATA=ARCHIVE      training steps beside nnU-Net's
# make speed-prediction NNUNET=... MODELS=FOLDER   nnU-Net's models predict there and here
# make speed-memory                      training steps that keep freed memory beside steps that give it back
# make speed-metrics                     all metrics of a large case
# make agreement-metrics                 metrics beside those of other libraries, in an environment of their own
# make gpu-check [DATA=HIPPOCAMPUS]      on a CUDA device: what is to hold there, and times; writes docs/gpu.md

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check format clean costs budgets ablation prediction-memory kill-test kill-run agreement \
	agreement-data speed speed-planning speed-training speed-memory speed-prediction \
	speed-metrics agreement-metrics gpu-check

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "autoseg needs Python 3.11 or later: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	touch $@

demo: install
	$(BIN)/autoseg benchmark phantom --budget 5m --folds 0 --workspace autoseg_work/phantom

test: install
	$(MAKE) check

check:
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

format:
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

kill-test: install
	$(BIN)/python -m tools.kill_test --kills 20

kill-run: install
	$(BIN)/python -m tools.kill_run --kills 10

costs: install
	$(BIN)/python -m tools.measure_costs

prediction-memory: install
	$(BIN)/python -m tools.measure_prediction_memory

budgets: install
	$(BIN)/python -m tools.measure_budgets $(DATA) --work autoseg_work/budgets

ablation: install
	$(BIN)/python -m tools.ablation $(DATA) --work autoseg_work/ablation

speed-metrics: install
	$(BIN)/python -m tools.measure_metrics

agreement-metrics: install
	$(BIN)/python -m venv autoseg_work/metrics
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > autoseg_work/metrics.pth
	cp autoseg_work/metrics.pth "$$(autoseg_work/metrics/bin/python -c 'import site; print(site.getsitepackages()[0])')"
	autoseg_work/metrics/bin/pip install --quiet --no-deps monai medpy surface-distance
	autoseg_work/metrics/bin/python -m tools.compare_metrics

agreement: install
	$(BIN)/pytest -q tests/plan/test_published_plans.py
	$(NNUNET)/bin/python -m tests.plan.nnunet_agreement --count 300

agreement-data: install
	$(BIN)/python -m tools.compare_fingerprints $(DATA) --nnunet-bin $(NNUNET)/bin
	$(BIN)/python -m tools.train_export_with_nnunet $(DATA) --nnunet-bin $(NNUNET)/bin

speed-planning: install
	$(BIN)/python -m tools.compare_planning $(DATA) --nnunet-bin $(NNUNET)/bin

speed: speed-planning speed-training speed-memory speed-prediction speed-metrics

speed-training: install
	$(BIN)/python -m tools.speed_training $(DATA) --nnunet-bin $(NNUNET)/bin

speed-memory: install
	$(BIN)/python -m tools.speed_memory

# MODELS is made by: $(NNUNET)/bin/python tools/train_nnunet_models.py MODELS --hippocampus ARCHIVE --acdc ARCHIVE
speed-prediction: install
	$(BIN)/python -m tools.compare_prediction $(MODELS) --nnunet-bin $(NNUNET)/bin --forward

gpu-check: install
	$(BIN)/python -m tools.gpu_check $(if $(DATA),--dataset $(DATA))

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
