# make demo     dream a LIBERO scene: outputs/demo.mp4, outputs/demo.png
# make test     install everything and run the tests
# make test-vla the tests that need lerobot or timm, on the releases that they run on, in .venv-vla
# make test-wheel   the wheel, installed into an empty environment, runs a user's first commands, and the sdist builds it
# make release  say whether a release can be made, and print its notes; changes nothing
# make test-latest   the tests on the newest releases that pyproject.toml allows, in .venv-latest: lists what broke
# make fuzz     the fuzz tests with ten thousand cases (make test runs a few of each)
# make chaos    kill Ray workers and the learner at random for minutes (make test does it for seconds)
# make docs     the site, outputs/site/index.html: strict, searchable, without a network (make test builds it too)
# make lint     ruff, format check, pyright
# make install  the package alone, in .venv
# make lock     resolve requirements/*.in to the newest releases: what all of the above install, but for test-latest
# make train    record LIBERO and train the small Prophet (hours)
# make reinforce    learn in the dream, test in LIBERO: the short version, one task (experiments/reinforce_in_dream)
# make reinforce-cpu, make reinforce-full   the whole experiment
# make figures  put the measured numbers into the documents
# make clean    remove the environments and caches; recordings and training under outputs/ stay
#
# PYTHON=python3.12 chooses an interpreter (>= 3.11), TORCH=cpu or TORCH=auto (what the GPU wants) a build, JOBS=4 the test processes.

PYTHON ?= python3
JOBS ?= 2
EPISODES ?= 1000
DEVICE ?= cpu
TORCH ?= $(if $(shell nvidia-smi -L 2>/dev/null),auto,cpu)

BIN := .venv/bin
CORE := .venv/.core
FULL := .venv/.full
VLA := .venv-vla/.ready
LATEST := .venv-latest/.ready
EXTRAS := dev,docs,notebook,fast,libero,ray,serve,sb3,torchrl,minari,video,wandb,trackio

# $(1) is an environment, $(2) a list of requirements. Every release and every file of a locked list is known.
PIP = $(1)/bin/python -m pip --disable-pip-version-check install -q
LOCKED = $(call PIP,$(1)) --no-deps --no-build-isolation --require-hashes -r requirements/$(2).txt
TORCH_BUILD = UV_HTTP_RETRIES=0 $(1)/bin/uv pip install -q --python $(1)/bin/python --torch-backend=$(2) $(3) 2>/dev/null || \
	{ echo "uv found no $(2) build of torch; the next step takes the one that pip finds"; \
	$(call PIP,$(1)) -r requirements/torch.txt; }
PACKAGE = $(call PIP,$(1)) --no-deps --no-build-isolation -e .
PYTEST = OMP_NUM_THREADS=1 LP_NUM_THREADS=1 $(1)/bin/python -m pytest -n $(JOBS) --dist loadfile --max-worker-restart 0

.PHONY: install demo test test-wheel test-vla test-latest fuzz chaos docs lint release lock train reinforce reinforce-cpu reinforce-full figures clean
.DELETE_ON_ERROR:

install: $(CORE)

$(CORE): pyproject.toml requirements/build.txt requirements/core.txt requirements/torch.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python >= 3.11 is needed, $(PYTHON) is older or missing: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(call LOCKED,.venv,build)
	$(call LOCKED,.venv,core)
	$(call TORCH_BUILD,.venv,$(TORCH),-r requirements/torch.txt)
	$(call PACKAGE,.venv)
	touch $@

# The simulator and its assets come without their dependencies: those bring torchvision, which breaks diffusers where its
# build does not match torch's.
$(FULL): $(CORE) requirements/test.txt requirements/docs.txt requirements/simulator.txt
	$(call LOCKED,.venv,test)
	$(call LOCKED,.venv,docs)
	$(call LOCKED,.venv,simulator)
	touch $@

demo: $(CORE)
	$(BIN)/prophet demo

test: $(FULL)
	$(call PYTEST,.venv) --durations 15

fuzz: $(FULL)
	$(call PYTEST,.venv) --fuzz-scale 40 tests/fuzz

chaos: $(FULL)
	$(BIN)/python -m benchmarks.workers.chaos

test-wheel: $(CORE)
	$(BIN)/python -m benchmarks.release.wheel --python $(PYTHON)

release: $(FULL)
	$(BIN)/python -m benchmarks.release

# lerobot comes without what it asks for. openpi's files of transformers must come after those that they replace. Where
# lerobot looks for torchvision stands tests/stand_ins.
$(VLA): pyproject.toml requirements/build.txt requirements/vla.txt requirements/vla-bare.txt requirements/torch.txt
	test -x .venv-vla/bin/python || $(PYTHON) -m venv .venv-vla
	$(call LOCKED,.venv-vla,build)
	$(call LOCKED,.venv-vla,vla)
	$(call TORCH_BUILD,.venv-vla,cpu,-r requirements/torch.txt)
	$(call LOCKED,.venv-vla,vla-bare) --force-reinstall
	$(call PACKAGE,.venv-vla)
	echo "$(CURDIR)/tests/stand_ins" > "$$(.venv-vla/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/stand_ins.pth"
	touch $@

test-vla: $(VLA)
	$(call PYTEST,.venv-vla) -m "" --durations 15 tests/prophrl_algos/vla tests/hub/test_envhub.py tests/interop/test_lerobot.py tests/interop/test_lerobot_export.py tests/interop/test_your_robot.py

# What LIBERO itself needs is no release of its own choice, so it stays as locked; a deprecation is listed, not an error.
$(LATEST): pyproject.toml requirements/build.txt requirements/simulator.txt requirements/torch.txt
	test -x .venv-latest/bin/python || $(PYTHON) -m venv .venv-latest
	$(call LOCKED,.venv-latest,build)
	$(call TORCH_BUILD,.venv-latest,$(TORCH),torch)
	.venv-latest/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch").split("+")[0])' > .venv-latest/torch.txt
	$(call PIP,.venv-latest) --upgrade --upgrade-strategy eager -c .venv-latest/torch.txt -e '.[$(EXTRAS)]'
	$(call LOCKED,.venv-latest,simulator)
	touch $@

test-latest: $(LATEST)
	.venv-latest/bin/python .ci/newer.py
	$(call PYTEST,.venv-latest) -W default::DeprecationWarning -W default::FutureWarning

docs: $(FULL)
	OMP_NUM_THREADS=1 $(BIN)/python -m mkdocs build

lint: $(FULL)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# $(1) is a list, $(2) more options, $(3) what is asked for if not its .in file. torch and what its CUDA builds pin are left
# out: those files differ from index to index.
RESOLVE = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	--custom-compile-command "make lock" -c requirements/torch.txt $(2) $(or $(3),requirements/$(1).in) -o requirements/$(1).new && \
	awk '/^[a-z0-9-]/ {keep = !/^(-e|torch==|triton==|nvidia-|cuda-)/} keep || /^\#/' requirements/$(1).new > requirements/$(1).txt && \
	rm requirements/$(1).new

lock: $(CORE)
	$(call RESOLVE,test)
	$(call RESOLVE,core,-c requirements/test.txt,pyproject.toml)
	$(call RESOLVE,build,-c requirements/test.txt)
	$(call RESOLVE,docs,-c requirements/test.txt)
	$(call RESOLVE,vla)
	$(call RESOLVE,simulator,--no-deps)
	$(call RESOLVE,vla-bare,--no-deps)

train: $(FULL)
	$(BIN)/prophet collect --suite libero_object --episodes $(EPISODES) --out outputs/recordings
	$(BIN)/prophet train --data outputs/recordings --out outputs/train

# The short version begins with the cloned policy of the package; the others clone their own.
TASKS_cpu := 3 5
TASKS_full := 0 3 5 7 8
EXPERTS_cpu := 150
EXPERTS_full := 375
SLIPS_cpu := 100
SLIPS_full := 250
SHOW = $(BIN)/prophet collect --suite libero_object --tasks $(TASKS_$*)
EXPERIMENT = $(BIN)/python -m experiments.reinforce_in_dream
REINFORCE = $(EXPERIMENT).run --size $(1) --out outputs/reinforce_$(1) --device $(DEVICE) $(2) \
	&& $(EXPERIMENT).report --logs outputs/reinforce_$(1)/logs \
	&& $(EXPERIMENT).plot outputs/reinforce_$(1)/logs

reinforce: $(FULL)
	$(call REINFORCE,short)

reinforce-cpu reinforce-full: reinforce-%: $(FULL)
	$(SHOW) --episodes $(EXPERTS_$*) --mode expert --seed 11 --out outputs/demonstrations_$*
	$(SHOW) --episodes $(SLIPS_$*) --mode slip --seed 12 --out outputs/slips_$*
	$(call REINFORCE,$*,--data outputs/demonstrations_$* outputs/slips_$*)

figures: $(CORE)
	$(BIN)/python -m docs.blocks.documents

clean:
	rm -rf .venv .venv-vla .venv-latest .pytest_cache .ruff_cache build dist outputs/demo.mp4 outputs/demo.png
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
