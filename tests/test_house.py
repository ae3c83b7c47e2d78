"""Rules of the house: imports point down, models take along only what they may, help is quick."""

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module

import pytest
from helpers.corpus import EVERYDAY, ROOT, SAMPLES

from seq2seq_dialog.verbs import BY_SETTINGS, VERBS

PACKAGE = ROOT / "seq2seq_dialog"
# The folders and the modules at the root. Each may import those of the layers before it and, in a
# folder, its own neighbours.
LAYERS = [
    {"errors", "shipped", "verbs", "portable", "dataset_script"},
    {"evaluation", "strict_yaml"},
    {"command_line"},
    {"inherited_settings"},
    {"setting_fields"},
    {"training_settings", "method_settings"},
    {"settings", "run_folder", "hub_errors"},
    {"checks"},
    {"train_arguments"},
    {"decoding"},
    {"models"},
    {"data"},
    {"training", "serve"},
    {"report"},
    {"hub"},
    {"train"},
    {"search"},
    {"__main__"},
]


def imports(path):
    """The absolute name of every module that a file imports, at its top or within a function."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["seq2seq_dialog", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            # `from . import page` names a module, `from .page import table` a part of one.
            for name in node.names:
                inner = PACKAGE.parent / module.replace(".", "/") / f"{name.name}.py"
                yield f"{module}.{name.name}" if inner.exists() else module


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def ours(path):
    """The modules of this package that a file imports, without the package's name."""
    names = (name.split(".") for name in imports(path))
    return {".".join(parts[1:]) for parts in names if parts[0] == "seq2seq_dialog" and parts[1:]}


def test_every_folder_and_module_has_a_layer():
    rooms = {name.split(".")[0] for name in MODULES}
    assert set().union(*LAYERS) == rooms | {"dataset_script"}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    room = name.split(".")[0]
    layer = next(i for i, rooms in enumerate(LAYERS) if room in rooms)
    below = set().union(*LAYERS[:layer], {room})
    upward = {module for module in ours(MODULES[name]) if module.split(".")[0] not in below}
    assert not upward, f"{name} imports {upward}"


def test_there_are_no_circles():
    graph = {name: ours(path) & set(MODULES) for name, path in MODULES.items()}
    for module in TopologicalSorter(graph).static_order():  # raises CycleError
        assert module in MODULES


def test_nothing_imports_the_run_script():
    for path in PACKAGE.rglob("*.py"):
        assert "run_seq2seq_dialog" not in imports(path)


@pytest.mark.parametrize("path", (PACKAGE / "portable").glob("*.py"), ids=lambda path: path.name)
def test_portable_files_need_torch_and_transformers_alone(path):
    allowed = {*sys.stdlib_module_names, "torch", "transformers"}
    for module in imports(path):
        room = module.split(".")[0]
        assert room in allowed or module.startswith("seq2seq_dialog.portable."), module


SCRIPT = list((ROOT / "dataset_script").glob("*.py"))


@pytest.mark.parametrize("path", SCRIPT, ids=lambda path: path.name)
def test_the_dataset_script_imports_its_neighbours_and_nothing_else_of_the_project(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    used = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    used |= {node.module for node in froms if not node.level}
    allowed = {*sys.stdlib_module_names, "datasets", "pyarrow"}  # which datasets brings
    assert {module.split(".")[0] for module in used} <= allowed
    # datasets 3.6 copies what dialogues.py imports by `from .name`, and looks no further.
    neighbours = {node.module for node in froms if node.level}
    assert all(node.level < 2 for node in froms)
    stems = {path.stem for path in SCRIPT} - {"dialogues"}
    assert neighbours == (stems if path.stem == "dialogues" else set())


@pytest.mark.parametrize("flags", [["--help"], ["chat", "--help"], ["--version"]], ids=" ".join)
def test_help_imports_nothing_heavy(flags):
    code = (
        f"import sys, runpy; sys.argv = ['x', *{flags}]\n"
        "try: runpy.run_module('seq2seq_dialog', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if flags == ["--help"]:
        listed = set(re.findall(r"^    ([\w-]+)(?:  |$)", done.stdout, re.MULTILINE))
        assert listed == {*BY_SETTINGS, *VERBS}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_names_a_function(verb):
    module, function = VERBS[verb].function.rsplit(".", 1)
    assert callable(getattr(import_module(f"seq2seq_dialog.{module}"), function))


def test_a_verb_works_from_a_folder_with_names_like_ours(tmp_path):
    for name in ("dataset_script", "configs", "benchmarks", "samples", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')")
    for name in ("datasets", "transformers", "evaluate", "torch", "yaml", "train"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    dialogues = tmp_path / "dialogues.txt"
    dialogues.write_text("Hi! __eou__ Hello. __eou__\n" * 20)
    env = {"PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    # It finds the recipe, reads the dialogues and ends, as no checkpoint can be had.
    done = subprocess.run(
        [sys.executable, "-m", "seq2seq_dialog", "train", "t5_small", "--data", str(dialogues)],
        cwd=tmp_path,
        env=os.environ | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "google-t5/t5-small" in done.stderr.splitlines()[-1]


def test_the_steps_of_a_run_are_read_at_a_glance():
    tree = ast.parse((PACKAGE / "train.py").read_text(encoding="utf-8"))
    (steps,) = (node for node in tree.body if getattr(node, "name", "") == "run_steps")
    branches = [node for node in ast.walk(steps) if isinstance(node, ast.If | ast.For | ast.While)]
    assert len(branches) <= 4


def test_functions_are_short():
    for folder in ("seq2seq_dialog", "dataset_script", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = node.end_lineno - node.lineno  # below the first one
                    assert lines <= 60, f"{node.name} in {path.name} has {lines} lines"


def test_public_names_are_there():
    import seq2seq_dialog

    for name in seq2seq_dialog.__all__:
        assert getattr(seq2seq_dialog, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = seq2seq_dialog.nonsense


@pytest.mark.parametrize(
    "paths", [[SAMPLES], sorted(EVERYDAY.iterdir())], ids=["samples", "everyday"]
)
def test_the_sample_dialogues_are_what_they_say(paths):
    lines = "".join(path.read_text(encoding="utf-8") for path in paths).split("\n")
    dialogues = [[u.strip() for u in line.split("__eou__")] for line in lines if line]
    assert len(dialogues) >= 1000 and lines[-1] == ""
    assert all(turns[-1] == "" and 3 <= len(turns) - 1 <= 12 for turns in dialogues)
    assert all(turn for turns in dialogues for turn in turns[:-1])
    assert len({tuple(turns) for turns in dialogues}) == len(dialogues)
    first = [turns[0] for turns in dialogues]
    assert len(set(first)) > 0.9 * len(first)  # no templates, but people open alike
