# make demo     dream a real LIBERO scene: outputs/demo.mp4, outputs/demo.png
# make test     install everything and run the tests
# make test-vla the tests that need lerobot, openpi's port or timm, with pins that work, in .venv-vla
# make fuzz     the fuzz tests with ten thousand cases (make test runs a few of each)
# make lint     ruff, format check, pyright
# make install  the package alone, in .venv
# make train    record the real simulator and train the small Prophet (hours)
# make proof    learn in the dream, test in the simulator: the short version, one task (docs/proof.md says how long)
# make proof-cpu, make proof-full   the whole experiment: docs/proof.md
# make figures  put the measured numbers into README.md and the model cards
# make clean    remove .venv, .venv-vla and caches; recordings and training under outputs/ stay
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
VLA := .venv-vla/bin
VLA_PIP := $(VLA)/python -m pip --disable-pip-version-check
VLA_READY := .venv-vla/.ready
VLA_NEEDS := accelerate av beartype datasets deepdiff draccus einops jsonlines num2words packaging pandas peft pyserial \
	pytest pytest-timeout pytest-xdist scipy termcolor transformers
SIMULATOR := hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1

.PHONY: install demo test test-vla fuzz lint train proof proof-cpu proof-full figures clean
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

fuzz: $(FULL)
	OMP_NUM_THREADS=1 LP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --fuzz-scale 40 tests/fuzz

# lerobot and openpi's port ask for torchvision and for a torch of their time, so they come without what they ask for; of
# transformers 4.53.2 they need the files that openpi changed, which must come after it. Where they look for torchvision
# stands tests/stand_ins.
$(VLA_READY): pyproject.toml constraints-vla.txt
	test -x $(VLA)/python || $(PYTHON) -m venv .venv-vla
	$(VLA_PIP) install -q uv
	UV_HTTP_RETRIES=0 $(VLA)/uv pip install -q --python $(VLA)/python --torch-backend=cpu -c constraints-vla.txt torch \
		2>/dev/null || echo "uv found no cpu build of torch; the next step takes the one that pip finds"
	$(VLA_PIP) install -q -c constraints-vla.txt torch
	$(VLA_PIP) install -q -c constraints-vla.txt $(VLA_NEEDS) -e .
	$(VLA_PIP) install -q --no-deps --force-reinstall rlinf-transformer-openpi==4.53.2
	$(VLA_PIP) install -q --no-deps lerobot==0.4.4 rlinf-openpi==0.1.1 timm==1.0.31
	echo "$(CURDIR)/tests/stand_ins" > "$$($(VLA)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/stand_ins.pth"
	touch $@

test-vla: $(VLA_READY)
	OMP_NUM_THREADS=1 $(VLA)/python -m pytest -n $(JOBS) --dist loadfile --durations 15 tests/prophrl_algos/vla tests/interop/test_lerobot.py

lint: $(FULL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

train: $(FULL)
	$(BIN)/prophet collect --suite libero_object --task all --episodes $(EPISODES) --out outputs/recordings
	$(BIN)/prophet train --data outputs/recordings --out outputs/train

# The short version begins with the cloned policy of the package; the others clone their own.
TASKS_cpu := 3,5
TASKS_full := 0,3,5,7,8
EXPERTS_cpu := 150
EXPERTS_full := 375
SLIPS_cpu := 100
SLIPS_full := 250
SHOW = $(BIN)/prophet collect --suite libero_object --task $(TASKS_$*)
PROVE = $(BIN)/python benchmarks/proof.py --size $(1) --out outputs/proof_$(1) --device $(DEVICE) $(2) \
	&& $(BIN)/python benchmarks/proof_report.py --logs outputs/proof_$(1)/logs \
	&& $(BIN)/python docs/proof.py outputs/proof_$(1)/logs

proof: $(FULL)
	$(call PROVE,short)

proof-cpu proof-full: proof-%: $(FULL)
	$(SHOW) --episodes $(EXPERTS_$*) --mode expert --seed 11 --out outputs/demonstrations_$*
	$(SHOW) --episodes $(SLIPS_$*) --mode slip --seed 12 --out outputs/slips_$*
	$(call PROVE,$*,--data outputs/demonstrations_$* outputs/slips_$*)

figures: $(CORE)
	$(BIN)/python docs/figures.py

clean:
	rm -rf .venv .venv-vla .pytest_cache .ruff_cache build dist outputs/demo.mp4 outputs/demo.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
