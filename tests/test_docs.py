"""The documentation: its code runs, its command lines parse, its links lead somewhere."""

import ast
import inspect
import json
import os
import re
import runpy
from importlib import import_module

import pytest
import yaml
from helpers import warm
from helpers.command_lines import PROGRAMS, check, commands, is_mention, known_flags
from helpers.corpus import ROOT, SAMPLES
from helpers.markdown import PAGES, Block, anchors, blocks, links, prose, sentences, spans
from seq2seq_dialog.dataset_script.dialogues import Dialogues

import seq2seq_dialog
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.settings import GROUPS

BLOCKS = [block for page in PAGES for block in blocks(page)]
SOURCES = [*(ROOT / "seq2seq_dialog").rglob("*.py"), ROOT / "run_seq2seq_dialog.py"]
NEEDS_THE_NETWORK = "user/name"  # a model that is not on the Hub
NEEDS_A_SERVER = "docs/how-to/serve.md"  # tests/serve/test_server.py runs it
OLDER_LINE = re.compile(r"# (transformers 4\.57|datasets 3\.6)\n")


def of(language: str) -> list[Block]:
    """List the blocks of a language."""
    return [block for block in BLOCKS if block.language == language]


def name(block: Block) -> str:
    """Name a block in the list of tests."""
    return f"{block.page}:{block.line}"


def page_name(page) -> str:
    """Name a page in the list of tests."""
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def workplace(run, config, tmp_path_factory):
    """A folder with what the code of the pages calls by name: dialogues and finished runs."""
    folder = tmp_path_factory.mktemp("workplace")
    run(config, folder / "runs" / "demo")
    for other in ("t5_small", "rnn_attention"):
        (folder / "runs" / other).symlink_to(folder / "runs" / "demo")
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:20]
    (folder / "dialogues_text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "dataset_script").symlink_to(ROOT / "dataset_script")
    return folder


def test_every_block_is_executed_or_parsed():
    # console: what a program printed, and lines for other machines, which cannot be checked here
    languages = {"python", "bash", "text", "yaml", "json", "console"}
    assert [name(block) for block in BLOCKS if block.language not in languages] == []
    for page in PAGES:
        indented = re.findall(r"\n\n {4,}(?![-*\d`| ]).*", prose(page))
        assert not indented, f"{page_name(page)}: code without a fence: {indented}"


@pytest.mark.parametrize(
    "page", dict.fromkeys(b.page for b in of("python") if b.page != NEEDS_A_SERVER)
)
def test_the_python_of_a_page_works(page, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    namespace = {"__name__": "page"}
    for block in of("python"):
        if block.page != page or OLDER_LINE.match(block.code):
            continue
        code = block.code.replace("google-t5/t5-small", "runs/demo")
        compiled = compile(code, name(block), "exec")
        if NEEDS_THE_NETWORK in code:
            imported = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.ImportFrom)]
            assert imported and all(
                hasattr(import_module(n.module), a.name) for n in imported for a in n.names
            )
        else:
            exec(compiled, namespace)


@pytest.mark.legacy
@pytest.mark.parametrize("block", [b for b in of("python") if OLDER_LINE.match(b.code)], ids=name)
def test_the_python_of_the_older_line_works(block, workplace, legacy_python):
    code = block.code.replace("/path/to/folder", str(workplace / "dialogues_text.txt"))
    env = os.environ | {"HF_HOME": str(workplace / "legacy")}
    done = warm.run("-c", code, python=legacy_python, cwd=workplace, env=env)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("block", of("bash"), ids=name)
def test_command_lines_parse(block, monkeypatch):
    lines = commands(block.code)
    assert lines
    check_all(lines, monkeypatch)


@pytest.mark.parametrize(
    "path", [*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "configs").rglob("*.sh")], ids=page_name
)
def test_the_command_lines_at_the_head_of_a_config_parse(path, monkeypatch):
    lines = re.findall(r"^#   (.*\S)", path.read_text(encoding="utf-8"), flags=re.M)
    lines = [re.split(r" {2,}or: {2,}", line)[-1] for line in lines]
    assert any("seq2seq_dialog" in line or "slurm.sh" in line for line in lines)
    lines = commands("\n".join(line.split("     #")[0] for line in lines))
    check_all([line for line in lines if "..." not in line], monkeypatch)


def check_all(lines: list[str], monkeypatch) -> None:
    """Parse command lines; what is not installed here may be asked for."""
    monkeypatch.chdir(ROOT)
    for line in lines:
        try:
            check(line)
        except UsageError as error:
            assert "pip install" in str(error), f"{line}: {error}"


@pytest.mark.parametrize("block", of("text"), ids=name)
def test_text_is_dialogues_or_names_files(block, tmp_path):
    if "__eou__" in block.code:
        (tmp_path / "dialogues_text.txt").write_text(block.code, encoding="utf-8")
        builder = Dialogues(data_files=str(tmp_path / "dialogues_text.txt"), cache_dir=tmp_path)
        rows = list(builder.as_streaming_dataset(split="train"))
        assert len(rows) >= len(block.code.splitlines())
    else:
        named = re.findall(r"[\w.]+/[\w/.]*", block.code)
        assert named and all((ROOT / path).exists() for path in named), named


@pytest.mark.parametrize("block", of("yaml"), ids=name)
def test_yaml_has_settings_that_exist(block):
    known = {name for group in GROUPS for name in group.__dataclass_fields__}
    assert set(yaml.safe_load(block.code)) <= known


@pytest.mark.parametrize("block", of("json"), ids=name)
def test_json_is_json(block):
    json.loads(block.code)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_code_in_a_sentence_is_right(page, monkeypatch):
    flags = known_flags()
    for span in spans(page):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span):
            assert flag in flags, f"{flag} in `{span}`"
        whole = not is_mention(span) and not re.search(r"…|\.\.\.|\b[A-Z][A-Z_]+\b", span)
        if whole and " " in span and span.split()[0].removeprefix(".venv/bin/") in PROGRAMS:
            check_all([span], monkeypatch)
        if re.fullmatch(r"[\w./-]+/[\w.-]*\.\w+|[\w-]+/", span) and not span.startswith("runs/"):
            places = (ROOT, ROOT / "seq2seq_dialog", page.parent)
            generated = span in ("train/", "validation/", "test/")
            assert generated or any((place / span).exists() for place in places), span


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page):
    for link in links(page):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        targets = {(page.parent / link.split("#")[0]).resolve() for link in links(page)}
        waiting += [target for target in targets & set(PAGES) if target not in reached]
    assert reached | {ROOT / "docs" / "README.md"} == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_sentences_are_short(page):
    long = [sentence for sentence in sentences(page) if len(sentence.split()) > 40]
    assert not long, long


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8")) <= 8000


def test_the_reference_is_what_the_code_says():
    generator = runpy.run_path(str(ROOT / "docs" / "reference" / "generate.py"))
    for file, page in generator["PAGES"].items():
        written = (ROOT / "docs" / "reference" / file).read_text(encoding="utf-8")
        assert written == page(), f"{file} is out of date: python docs/reference/generate.py"


def test_the_python_reference_has_every_public_name_and_its_parameters():
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    headings = dict(re.findall(r"^### (\w+)(?:\((.*)\))?$", text, flags=re.M))
    assert set(headings) == set(seq2seq_dialog.__all__)
    for name, parameters in headings.items():
        if not parameters:
            continue
        signature = inspect.signature(getattr(seq2seq_dialog, name))
        plain = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
        assert str(inspect.Signature(plain)) == f"({parameters})", name


def test_the_files_of_a_run_are_all_named(workplace):
    page = ROOT / "docs" / "reference" / "run_folder.md"
    named = set(spans(page))
    for path in (workplace / "runs" / "demo").iterdir():
        assert re.sub(r"-\d+$", "-*", path.name) in named, path.name


def test_the_messages_of_the_faq_are_messages_of_the_code():
    headings = re.findall(r"^### (.*)$", (ROOT / "docs" / "faq.md").read_text("utf-8"), flags=re.M)
    texts = "\n".join(constants(path) for path in SOURCES)
    messages = [span for heading in headings for span in re.findall(r"`([^`]+)`", heading)]
    messages = [message for message in messages if " " in message]
    assert len(messages) >= 5
    for message in messages:
        assert all(part.strip() in texts for part in message.split("…")), message


def constants(path) -> str:
    """Join the texts that a file holds, each on a line."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return "\n".join(node.value for node in nodes if isinstance(node.value, str))
