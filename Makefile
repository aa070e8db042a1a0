# Every verb a user needs. `make` alone lists them.
RECIPE ?= tiny
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RECIPES := recipes/$(RECIPE)
RUN := runs/$(RECIPE)
MODEL ?= $(RUN)/merge
overwrite := $(if $(OVERWRITE),--overwrite)
bench_options = $(if $(DATA),--data "$(DATA)") $(if $(BACKEND),--backend $(BACKEND)) $(if $(SPEC),--spec "$(SPEC)") \
	$(if $(SAMPLES),--samples $(SAMPLES)) $(if $(TEMPERATURE),--temperature $(TEMPERATURE)) $(if $(BATCH),--batch_size $(BATCH)) \
	$(if $(AGGREGATION),--aggregation $(AGGREGATION)) $(if $(EXPECTED),--expected_score) $(if $(PARTIAL),--partial)
fresh_flag := $(if $(OVERWRITE),--overwrite true)
# On a CPU, blocks that generation frees and takes again at every token are kept instead of given back to the system.
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo plan data sft mine grpo merge eval report try diagnose push reward-audit gpu-check test test-slow test-all lint

help: ## list the verbs
	@echo "make VERB [RECIPE=tiny] [OVERWRITE=1]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PY) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[train,dev]'
	@touch $@

setup: $(VENV)/ready ## set up .venv (every other verb does it when needed)

demo: $(VENV)/ready ## the whole pipeline: data, sft, grpo, merge, eval, report
	@for stage in data sft grpo merge eval report; do \
		echo "== $$stage"; $(MAKE) --no-print-directory $$stage RECIPE=$(RECIPE) OVERWRITE=$(OVERWRITE) || exit 1; done

plan: $(VENV)/ready ## what the recipe needs, and what is wrong with it: [GPUS=8 GPU=h100-80gb ENGINE=zero2 OPTIONS='--name value']
	@$(PY) -m tools.plan $(if $(STAGE),$(RECIPES)/$(STAGE).yaml,$(RECIPES)) $(if $(GPUS),--gpus $(GPUS)) $(if $(GPU),--gpu $(GPU)) \
		$(if $(ENGINE),--engine $(ENGINE)) $(OPTIONS)

data: $(VENV)/ready ## read, validate and split the recipe's sources; the rows of every split and the spec
	@$(PY) -m data --config $(RECIPES)/data.yaml $(overwrite)

sft: $(VENV)/ready ## stage 1: LoRA on reasoning traces, ends in merged weights
	@$(PY) -m sft --config $(RECIPES)/sft.yaml $(fresh_flag)

mine: $(VENV)/ready ## keep the rows that are hard, not hopeless, for stage 1's model
	@$(PY) -m evaluation mine --config $(RECIPES)/mine.yaml $(overwrite)

grpo: $(VENV)/ready ## stage 2: GRPO on verifiable rewards
	@$(PY) -m grpo --config $(RECIPES)/grpo.yaml $(fresh_flag)

merge: $(VENV)/ready ## merge stage 2's adapter, and verify the result
	@$(PY) -m export merge --base $(RUN)/sft/merged $(if $(wildcard $(RUN)/grpo/weights),--checkpoint $(RUN)/grpo/weights,--adapter \
		$(RUN)/grpo/adapter) --output_dir $(RUN)/merge $(overwrite)

eval: $(VENV)/ready ## held-out verdicts of every stage; or BENCH=name|all [MODEL=] [DATA=folder] [BACKEND=] [SAMPLES=] [PARTIAL=1]
	@$(if $(BENCH),$(PY) -m evaluation bench $(BENCH) --config $(RECIPES)/eval.yaml --model "$(MODEL)" $(bench_options) $(overwrite),\
		$(PY) -m evaluation heldout --config $(RECIPES)/eval.yaml $(overwrite))

report: $(VENV)/ready ## the held-out table, heldout.json and the HTML page
	@$(PY) -m evaluation report --config $(RECIPES)/eval.yaml

push: $(VENV)/ready ## verify and publish: REPO=org/name [PRIVATE=1] [REVISION=main] [ADAPTERS=1]; a dry run without CONFIRM=1
	@$(PY) -m export push $(RUN) --repo "$(REPO)" $(if $(REVISION),--revision "$(REVISION)") $(if $(PRIVATE),--private) \
		$(if $(ADAPTERS),--adapters) $(if $(CONFIRM),--confirm)

try: export INSTRUCTION := $(value INSTRUCTION)
try: $(VENV)/ready ## one edit, as a page: SOURCE=a.png EDITED=b.png INSTRUCTION='...' [MODEL=folder]
	@$(PY) -m evaluation try --model "$(MODEL)" --source "$(SOURCE)" --edited "$(EDITED)" --instruction "$$INSTRUCTION" \
		--page $(RUN)/try/try.html

diagnose: $(VENV)/ready ## where a model looks while it writes verdicts: a table and heat maps [MODEL=folder]
	@$(PY) -m evaluation diagnose --config $(RECIPES)/eval.yaml --model "$(MODEL)"

reward-audit: $(VENV)/ready ## what bad policies would earn under the recipe's rewards
	@$(PY) -m rewards_fn audit $(RUN)/data/train.parquet --config $(RECIPES)/grpo.yaml

gpu-check: $(VENV)/ready ## a recipe's steps timed on this GPU with random weights: [RECIPE=spatialreward-8b]
	@$(PY) -m tools.gpu_check $(if $(filter-out tiny,$(RECIPE)),--recipe $(RECIPES))

test: $(VENV)/ready ## the tests that are not marked slow
	@$(PY) -m pytest -m "not slow"

test-slow: $(VENV)/ready ## the tests marked slow: whole stages, killed and resumed
	@$(PY) -m pytest -m slow

test-all: $(VENV)/ready ## every test
	@$(PY) -m pytest

lint: $(VENV)/ready ## ruff, mypy and codespell
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && $(VENV)/bin/codespell
