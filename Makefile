# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
MODELS ?= .models
HEADS ?= $(MODELS)/heads
PEERS ?= .peers
BIN = $(VENV)/bin
# torch: a CPU build is enough for tests and the demo. Any torch >= 2.11 that is installed already is kept.
TORCH ?= torch==2.13.0
DEV = hypothesis import-linter jsonschema junitparser matplotlib mypy pytest pytest-xdist ruff types-PyYAML types-jsonschema types-tabulate

.PHONY: demo test lint types contracts unit docs docs-check bench bench-qwen bench-batches bench-heads \
  bench-calibrated bench-kill bench-distributed bench-peers bench-specmemo clean

demo: $(VENV)/.installed
	$(BIN)/specplan pull smollm2-135m --to $(MODELS)
	$(BIN)/specplan analyze --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf --gpu local --drafter ngram \
	  --context 2048 --budget 2GiB --alpha 0.8 -o $(MODELS)/plan.json
	$(BIN)/specplan check $(MODELS)/plan.json
	$(BIN)/specplan run $(MODELS)/plan.json --baseline --max-new-tokens 128 --report $(MODELS)/report.json \
	  --prompt "$$(cat docs/demo-prompt.txt)"

test: $(VENV)/.installed-dev lint types contracts docs-check unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

contracts: $(VENV)/.installed-dev
	PYTHONPATH=.:runtime $(BIN)/lint-imports

unit: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto

# Generated documentation: formulas, commands, the JSON Schema of plans.
docs: $(VENV)/.installed
	$(BIN)/python docs/generate.py

docs-check: $(VENV)/.installed
	$(BIN)/python docs/generate.py --check

bench: $(VENV)/.installed
	$(BIN)/specplan pull smollm2-135m --to $(MODELS)
	$(BIN)/python -m bench.runtime --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
	$(BIN)/python -m bench.cold_start
	OMP_NUM_THREADS=1 $(BIN)/python -m bench.search_speed
	$(BIN)/python -m bench.process_memory --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf
	$(BIN)/python -m bench.greedy_equality --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf

bench-qwen: $(VENV)/.installed
	$(BIN)/specplan pull qwen2.5-coder-1.5b --to $(MODELS)
	$(BIN)/specplan pull qwen2.5-coder-0.5b --to $(MODELS)
	$(BIN)/python -m bench.runtime --model $(MODELS)/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf \
	  --draft $(MODELS)/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --categories code,edit,chat,story

# Measured batches beside planned ones, and what adaptive drafting loses; after `specplan calibrate`.
bench-batches: $(VENV)/.installed
	$(BIN)/specplan pull smollm2-135m --to $(MODELS)
	$(BIN)/python -m bench.batches --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf

# Trees over trained heads, in speed and beside Medusa's own code; training the heads takes half an hour.
bench-heads: $(VENV)/.installed
	$(BIN)/specplan pull smollm2-135m --to $(MODELS)
	test -f $(HEADS)/medusa_lm_head.safetensors || $(BIN)/specplan train-heads \
	  --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf -o $(HEADS)
	$(BIN)/pip install --quiet --no-deps medusa-llm==0.1
	$(BIN)/python -m bench.runtime --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf --heads $(HEADS)
	$(BIN)/python -m bench.medusa_gather --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf --heads $(HEADS)

# Predicted against measured speed after calibration; on a machine that does nothing else, about half an hour.
bench-calibrated: $(VENV)/.installed
	$(BIN)/specplan pull smollm2-135m --to $(MODELS)
	$(BIN)/specplan pull qwen2.5-coder-1.5b --to $(MODELS)
	$(BIN)/specplan pull qwen2.5-coder-0.5b --to $(MODELS)
	$(BIN)/python -m bench.calibrated --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf --gammas 2,4,6 --early-exit 2
	$(BIN)/python -m bench.calibrated --model $(MODELS)/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf \
	  --draft $(MODELS)/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf --ngram 2,4,6

# Fifty SIGKILLs at random moments, half of them into a batch job and half into a chat; ten minutes.
bench-kill: $(VENV)/.installed
	$(BIN)/specplan pull smollm2-135m --to $(MODELS)
	$(BIN)/python -m bench.kill --model $(MODELS)/SmolLM2-135M-Instruct.Q4_1.gguf \
	  --questions 12 --tokens 12 --context 256

# Two and four processes against one, token by token and byte by byte; then ranks are killed. No downloads, ten minutes.
bench-distributed: $(VENV)/.installed
	$(BIN)/python -m bench.distributed
	$(BIN)/python -m bench.rank_kill

# Other memory calculators on the same questions; their environments take about 5 GB.
bench-peers: $(VENV)/.installed
	$(BIN)/python -m bench.peers --install $(PEERS)

# The two results of the SpecMemo paper from our models: seconds, no downloads.
bench-specmemo: $(VENV)/.installed
	$(BIN)/python -m bench.specmemo

$(VENV)/.installed: pyproject.toml
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[runtime]"
	$(BIN)/python -m compileall -q specplan runtime  # pip does this for wheels and not for editable installs
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet $(DEV)
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build dist
