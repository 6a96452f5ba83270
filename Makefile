# make demo     dream a real LIBERO scene: outputs/demo.mp4, outputs/demo.png
# make test     install everything and run the tests
# make lint     ruff, format check, pyright
# make install  the package alone, in .venv
# make train    record the real simulator and train the small Prophet (hours)
# make proof    learn in the dream, test in the simulator: the short version, one task (about half an hour)
# make proof-cpu, make proof-full   the whole experiment: docs/proof.md
# make figures  put the measured numbers into README.md and the model cards
# make clean    remove .venv and caches; recordings and training under outputs/ stay
#
# PYTHON=python3.12 chooses an interpreter (>= 3.11), TORCH=cpu or TORCH=auto (what the GPU wants) a build, JOBS=4 the test processes.

PYTHON ?= python3
JOBS ?= 2
EPISODES ?= 1000
DEVICE ?= cpu
TORCH ?= $(if $(shell nvidia-smi -L 2>/dev/null),auto,cpu)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CORE := .venv/.core
FULL := .venv/.full
SIMULATOR := hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1

.PHONY: install demo test lint train proof proof-cpu proof-full figures clean
.DELETE_ON_ERROR:

install: $(CORE)

$(CORE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed, $(PYTHON) is older or missing: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install -q uv
	UV_HTTP_RETRIES=0 $(BIN)/uv pip install -q --python $(BIN)/python --torch-backend=$(TORCH) -c constraints.txt torch \
		2>/dev/null || echo "uv found no $(TORCH) build of torch; the next step takes the one that pip finds"
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e .
	touch $@

# The simulator without its dependencies: they pull in torchvision, which breaks diffusers where its build does not match.
$(FULL): $(CORE)
	$(PIP) install -q -c constraints.txt -e '.[dev,libero,sb3,torchrl,minari,video]'
	$(PIP) install -q --no-deps $(SIMULATOR)
	touch $@

demo: $(CORE)
	$(BIN)/prophet demo

test: $(FULL)
	OMP_NUM_THREADS=1 LP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --durations 15

lint: $(FULL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

train: $(FULL)
	$(BIN)/prophet collect --suite libero_object --task all --episodes $(EPISODES) --out outputs/recordings
	$(BIN)/prophet train --data outputs/recordings --out outputs/train

# The short version begins with the cloned policy of the package; the others clone their own.
SHOWN_cpu := --task 0,3,5 --episodes 150
SHOWN_full := --task 0,3,5,7,8 --episodes 250
PROVE = $(BIN)/python benchmarks/proof.py --size $(1) --out outputs/proof_$(1) --device $(DEVICE) $(2) \
	&& $(BIN)/python benchmarks/proof_report.py --logs outputs/proof_$(1)/logs \
	&& $(BIN)/python docs/proof.py outputs/proof_$(1)/logs

proof: $(FULL)
	$(call PROVE,short)

proof-cpu proof-full: proof-%: $(FULL)
	$(BIN)/prophet collect --suite libero_object $(SHOWN_$*) --mode expert --seed 11 --out outputs/demonstrations_$*
	$(call PROVE,$*,--data outputs/demonstrations_$*)

figures: $(CORE)
	$(BIN)/python docs/figures.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist outputs/demo.mp4 outputs/demo.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
