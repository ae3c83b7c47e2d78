"""Rules of the house: imports point down, models take along only what they may, help is quick."""

import ast
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGE = ROOT / "seq2seq_dialog"
# Each module may import those of the layers above it in this list, and portable ones each other.
LAYERS = [
    {
        "arguments",
        "metrics",
        "batching",
        "decoding",
        "portable.context",
        "portable.configuration_rnn",
    },
    {"portable.pipeline", "portable.modeling_rnn", "models", "quality", "baselines", "protocols"},
    {"hub_rows", "evaluation", "memory", "sharding", "exported", "space.app"},
    {"data", "report", "inference"},
    {"streaming", "overlap", "page"},
    {"trainer"},
    {"adversarial", "artifact", "compare", "card"},
    {"attention", "chat", "sweep", "web"},
    {"hub", "export"},
    {"publish_data"},
    {"__main__"},
]


def imports(path):
    """(module, is it of this project) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, False) for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level > 0 and node.module is None:
            yield from ((name.name, True) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level > 0 or (node.module or "").startswith("seq2seq")


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def test_every_module_has_a_layer():
    assert set().union(*LAYERS) == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_down(name):
    layer = next(i for i, names in enumerate(LAYERS) if name in names)
    below = set().union(*LAYERS[:layer])
    used = {module for module, ours in imports(MODULES[name]) if ours}
    if name.startswith("portable."):
        used = {f"portable.{module}" for module in used}
    assert used <= below, f"{name} imports {used - below}"


def test_nothing_imports_the_run_script():
    for path in PACKAGE.rglob("*.py"):
        assert "run_seq2seq_dialog" not in {module for module, _ in imports(path)}


@pytest.mark.parametrize("path", (PACKAGE / "portable").glob("*.py"), ids=lambda path: path.name)
def test_portable_files_need_torch_and_transformers_alone(path):
    allowed = {*sys.stdlib_module_names, "torch", "transformers"}
    for module, ours in imports(path):
        assert ours or module.split(".")[0] in allowed, module


def test_the_dataset_script_imports_nothing_of_the_project():
    used = {module for module, _ in imports(ROOT / "dataset_script" / "dialogues.py")}
    allowed = {*sys.stdlib_module_names, "datasets"}
    assert {module.split(".")[0] for module in used} <= allowed


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('seq2seq_dialog', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(
        verb in done.stdout
        for verb in ("chat", "web", "attention", "sweep", "audit", "compare", "report", "publish")
    )


def test_public_names_are_there():
    import seq2seq_dialog

    for name in seq2seq_dialog.__all__:
        assert getattr(seq2seq_dialog, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = seq2seq_dialog.nonsense


def test_the_sample_corpus_is_what_it_says():
    lines = (ROOT / "samples" / "dialogues_text.txt").read_text(encoding="utf-8").split("\n")
    dialogues = [[u.strip() for u in line.split("__eou__")] for line in lines if line]
    assert len(dialogues) >= 300 and lines[-1] == ""
    assert all(turns[-1] == "" and 3 <= len(turns) - 1 <= 12 for turns in dialogues)
    assert all(turn for turns in dialogues for turn in turns[:-1])
    assert len({tuple(turns) for turns in dialogues}) == len(dialogues)
    first = [turns[0] for turns in dialogues]
    assert len(set(first)) > 0.95 * len(first)  # no templates


def test_the_readme_names_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:configs|samples|benchmarks|dataset_script|tests)/[\w/.]*\w", text))
    named |= set(re.findall(r"(?<!/)\b[A-Z]+\.md", text))
    assert {"configs/t5_small.yaml", "benchmarks/RESULTS.md", "CONTRIBUTING.md"} <= named
    for name in named:
        assert (ROOT / name).exists(), name
    described = set(re.findall(r"^ +(\w+\.py) ", text, flags=re.MULTILINE))
    modules = {path.name for path in MODULES.values()} - {"app.py"}  # with its page, of the Space
    assert described == modules
