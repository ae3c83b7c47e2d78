# Two commands: `make demo` trains and shows a small model, `make test` proves that all of it works.
PYTHON ?= python3
# pip compiles nothing, which halves its time: what is imported is compiled then, and kept.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-faults check audit format wheel clean
.DELETE_ON_ERROR:

demo: .venv/.ready
	.venv/bin/python run_seq2seq_dialog.py configs/demo.yaml

test: .venv/.ready .venv-legacy/.ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadfile \
		--no-loadscope-reorder

# What breaks runs in every way takes minutes more.
test-faults: .venv/.ready
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -m faults --numprocesses logical --maxprocesses 8

check: .venv/.ready
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .

format: .venv/.ready
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Known vulnerabilities of all that is installed, by a tool in an environment of its own.
audit: .venv/.ready
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && $(PYTHON) -m venv "$$folder" && \
	"$$folder/bin/python" -m pip install --quiet pip-audit && "$$folder/bin/pip-audit" \
		--path "$$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# An installable package in dist/: pip install dist/*.whl gives the command seq2seq-dialog.
wheel: .venv/.ready
	rm -rf build dist
	.venv/bin/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	rm -rf build seq2seq_dialog.egg-info

.venv/.ready: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --no-compile --requirement requirements.txt
	touch $@

# The older line of the libraries: tests use the trained models there as its users would.
.venv-legacy/.ready: requirements-legacy.txt
	$(PYTHON) -m venv .venv-legacy
	.venv-legacy/bin/python -m pip install --quiet --no-compile --requirement requirements-legacy.txt
	touch $@

clean:
	rm -rf .venv .venv-legacy build dist runs
