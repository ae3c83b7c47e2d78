"""A finished run on the Hub: what goes up, what stays at home, and what happens when it fails."""

import json
import shutil
import signal
import sys
import threading
import time
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from helpers import warm
from helpers.corpus import ROOT, SAMPLES
from helpers.hub_cards import code_blocks
from transformers import AutoModelForSeq2SeqLM

from seq2seq_dialog import train
from seq2seq_dialog.data.known_corpora import SAMPLES as SAMPLE_CORPUS
from seq2seq_dialog.errors import Stopped, UsageError
from seq2seq_dialog.hub import push
from seq2seq_dialog.hub.publish_model import CODE, model_files, publish
from seq2seq_dialog.hub.push import Publication
from seq2seq_dialog.models import artifact
from seq2seq_dialog.run_folder import read_json, read_jsonl
from seq2seq_dialog.serve.inference import generate_response, load
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.checkpoints import seal_run

MODELS = {
    "t5": "{model_type: t5, d_model: 32, d_kv: 8, d_ff: 64, num_layers: 1, num_heads: 4}",
    "rnn": "{model_type: rnn_seq2seq, embedding_size: 16, hidden_size: 32}",
}
TEXTS = ["How are you?", "Hi! __eou__ Hello. __eou__ What time is it?", "Is it far?"]


def settings(folder, kind):
    flags = ["--data", str(folder / "dialogues.txt"), "--output_dir", str(folder / kind)]
    flags += ["--vocab_size", "300", "--max_source_length", "48", "--max_target_length", "16"]
    flags += ["--new_model", MODELS[kind], "--max_steps", "8", "--max_new_tokens", "8"]
    return [*flags, "--logging_steps", "4", "--report_to", "tensorboard"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs of both kinds, whose replies depend on the context.

    Eight steps teach nobody to do that; random weights do.
    """
    folder = tmp_path_factory.mktemp("somewhere")
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:60]
    (folder / "dialogues.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for kind, spread in (("t5", 0.5), ("rnn", 1.0)):
        train.main(settings(folder, kind))
        model = load(folder / kind, "cpu", trust_remote_code=True)[0]
        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, spread)
        model.save_pretrained(folder / kind)
        artifact.finish(folder / kind)
        seal_run(folder / kind)
    return folder


@pytest.fixture
def ann(hub, monkeypatch):
    """The Hub, with ann logged in and nobody waiting between two tries."""
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    monkeypatch.setattr(push, "WAIT", 0)
    return hub


def local(folder):
    model, tokenizer, _ = load(folder, "cpu", trust_remote_code=True)
    return [generate_response(text, model, tokenizer) for text in TEXTS]


def writes(hub):
    return [f"{method} {path}" for method, path, _ in hub.requests if method in ("PUT", "POST")]


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# What goes up


@pytest.mark.parametrize("kind", MODELS)
def test_just_these_files_go_up(runs, ann, kind):
    before = snapshot(runs / kind)
    assert any("checkpoint-" in str(path) for path in before)
    assert any("events.out" in path.name for path in before)
    publish(runs / kind, "ann/m")
    code = {"context.py", "guidance.py", "options.py", "pipeline.py", "reranking.py"}
    code |= {"configuration_rnn.py", "modeling_rnn.py"} if kind == "rnn" else set()
    files = ann.files("ann/m")
    assert set(files) == code | {
        ".gitattributes", "README.md", "config.5.0.0.json", "config.json", "curves.png",
        "evaluation.json", "generation_config.json", "metrics.json", "model.safetensors",
        "chat_template.jinja", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for name in set(files) - {"README.md", ".gitattributes"}:
        assert files[name] == (runs / kind / name).read_bytes(), name
    assert [commit.title for commit in ann.commits("ann/m")] == [
        "Publish the model",
        "initial commit",
    ]
    assert snapshot(runs / kind) == before  # the run is as it was


@pytest.mark.parametrize("kind", MODELS)
def test_no_path_of_this_machine_and_no_token_goes_up(runs, ann, kind):
    publish(runs / kind, "ann/m")
    secrets = (str(runs), str(runs.parent), "hf_ann", str(ROOT), "somewhere")
    for name, content in ann.files("ann/m").items():
        for secret in secrets:
            assert secret.encode() not in content, (name, secret)


@pytest.mark.parametrize("secret", ["hf_ann", "{folder}"])
def test_what_would_tell_a_secret_is_refused(runs, ann, tmp_path, secret):
    for name, content in model_files(Publication(runs / "t5", "ann/m")).items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        (tmp_path / name).write_bytes(data)
    (tmp_path / "config.yaml").write_bytes((runs / "t5" / "config.yaml").read_bytes())
    config = read_json(tmp_path / "config.json") | {"x": secret.format(folder=tmp_path / "a")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"config.json would tell everybody .* take it out"):
        model_files(Publication(tmp_path, "ann/m"))
    (tmp_path / "config.json").write_text("{}")
    template = secret.format(folder=tmp_path / "a").encode() + b" \xff"  # no text
    (tmp_path / "chat_template.jinja").write_bytes(template)
    with pytest.raises(UsageError, match=r"chat_template.jinja would tell everybody"):
        model_files(Publication(tmp_path, "ann/m"))


def test_the_code_is_this_projects_even_where_the_folder_has_other(runs, tmp_path, ann):
    folder = tmp_path / "run"
    shutil.copytree(runs / "rnn", folder)
    (folder / "modeling_rnn.py").write_text("import os\n")
    publish(folder, "ann/m")
    code = {name: data for name, data in ann.files("ann/m").items() if name.endswith(".py")}
    assert set(code) == set(CODE)
    for name, data in code.items():
        assert data == (artifact.PORTABLE / name).read_bytes()
    (folder / "modeling_other.py").write_text("import os\n")
    with pytest.raises(UsageError, match=r"not this project's.*modeling_other.py"):
        publish(folder, "ann/m")
    (folder / "modeling_other.py").unlink()
    config = read_json(folder / "config.json")
    config["auto_map"]["AutoModel"] = "bob/other--modeling.Model"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"not this project's.*bob/other--modeling.Model"):
        publish(folder, "ann/m")


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("config.5.0.0.json", "custom_pipelines", {"text-generation": {"impl": "bob/x--pipe.P"}}),
        ("tokenizer_config.json", "auto_map", {"AutoTokenizer": ["bob/x--tok.Tok", None]}),
    ],
)
def test_code_of_other_repositories_is_refused(runs, tmp_path, name, key, value):
    folder = tmp_path / "run"
    shutil.copytree(runs / "t5", folder)
    (folder / name).write_text(json.dumps(read_json(folder / name) | {key: value}))
    with pytest.raises(UsageError, match=r"not this project's \(bob/x--"):
        model_files(Publication(folder, "ann/m"))


@pytest.mark.parametrize("name", ["curves.png", "chat_template.jinja", "predictions.jsonl"])
def test_nothing_that_lies_elsewhere_goes_up(runs, tmp_path, name):
    folder, elsewhere = tmp_path / "run", tmp_path / "private"
    shutil.copytree(runs / "t5", folder)
    (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(UsageError, match=rf"{name} in .* is a link to a file elsewhere"):
        model_files(Publication(folder, "ann/m"))
    (folder / name).unlink()
    elsewhere.rename(folder / "within")
    (folder / name).symlink_to("within")
    (tmp_path / "linked").symlink_to(folder)
    assert model_files(Publication(tmp_path / "linked", "ann/m"))


def test_an_index_names_no_file_elsewhere(runs, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(runs / "t5", folder)
    (tmp_path / "private").write_text("mine")
    index = {"weight_map": {"shared.weight": "../private"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"\.\./private in .* is a link to a file elsewhere"):
        model_files(Publication(folder, "ann/m"))


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_broken_file_is_named(runs, tmp_path, content):
    folder = tmp_path / "run"
    shutil.copytree(runs / "t5", folder)
    (folder / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=r"config.json"):
        model_files(Publication(folder, "ann/m"))


def test_weights_that_were_damaged_are_refused_and_edited_settings_go_up(runs, tmp_path):
    folder = tmp_path / "copied"
    shutil.copytree(runs / "t5", folder)
    decoding = folder / "generation_config.json"
    decoding.write_text(decoding.read_text().replace("}", ', "top_k": 7}'))
    assert model_files(Publication(folder, "ann/m"))
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-5])  # as a copy that was cut off
    with pytest.raises(UsageError, match=r"model\.safetensors' has .* copy the run again"):
        model_files(Publication(folder, "ann/m"))


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path, runs):
    with pytest.raises(
        UsageError, match=r"no finished run: metrics.json, config.yaml, .* pipeline.py"
    ):
        model_files(Publication(tmp_path, "ann/m"))
    folder = tmp_path / "run"
    shutil.copytree(runs / "t5", folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"has no model.safetensors"):
        model_files(Publication(folder, "ann/m"))


def test_a_dry_run_lists_what_would_go_up_and_asks_nobody(runs, ann, capsys, tmp_path):
    card = tmp_path / "card.md"
    card.write_text("something else")
    publish(runs / "t5", "ann/m", space="ann/s", dry_run=True, card=str(card))
    out = capsys.readouterr().out
    assert ann.requests == []
    publish(runs / "t5", "ann/m", space="ann/s")
    assert f"Card:      {tmp_path / 'card-2.md'}\n" in out and card.read_text() == "something else"
    assert (tmp_path / "card-2.md").read_bytes() == ann.files("ann/m")["README.md"]
    for name, content in ann.files("ann/m").items():
        assert name == ".gitattributes" or f"{len(content):,}  {name}\n" in out
    for name in ann.files("ann/s", "space"):  # its size depends on the commit it will serve
        assert name == ".gitattributes" or f"  {name}\n" in out.split("spaces/ann/s")[1]


# Once more


def test_publishing_again_sends_what_has_changed_alone(runs, ann):
    publish(runs / "t5", "ann/m")
    head = ann.commits("ann/m")[0].oid
    ann.requests.clear()
    publish(runs / "t5", "ann/m")
    assert ann.commits("ann/m")[0].oid == head
    assert not [line for line in writes(ann) if "PUT " in line or "/commit/" in line]

    ann.requests.clear()
    publish(runs / "t5", "ann/m", license="cc-by-4.0")
    (commit, *_), files = ann.commits("ann/m"), ann.files("ann/m")
    changed = {
        name for name, data in files.items() if ann.files("ann/m", revision=head)[name] != data
    }
    assert changed == {"README.md"} and commit.parent == head
    assert b"license: cc-by-4.0" in files["README.md"]
    assert not [line for line in writes(ann) if "PUT " in line]


def test_what_an_earlier_model_has_left_goes_and_other_files_stay(runs, ann):
    publish(runs / "rnn", "ann/m")
    repo = ann.repos["model", "ann/m"]
    shard = {"model-00001-of-00002.safetensors": repo.at("main").files["README.md"]}
    notes = {"notes.md": repo.at("main").files["README.md"]}
    repo.commit("main", repo.at("main").files | shard | notes, "by hand")
    publish(runs / "t5", "ann/m")
    files = set(ann.files("ann/m"))
    assert "notes.md" in files and "pipeline.py" in files
    assert not files & {"modeling_rnn.py", "configuration_rnn.py", *shard}


def test_a_branch_is_made_and_main_stays(runs, ann, capsys):
    publish(runs / "rnn", "ann/m")
    main = ann.files("ann/m")
    publish(runs / "t5", "ann/m", revision="try/second")
    assert ann.files("ann/m") == main
    assert "modeling_rnn.py" not in ann.files("ann/m", revision="try/second")
    assert "/ann/m/tree/try/second" in capsys.readouterr().out
    ann.fail(status=404, message="Not found", on="%2Fthird", times=9)
    with pytest.raises(UsageError, match=r"revision is 'try/third'.* choose one without"):
        publish(runs / "t5", "ann/m", revision="try/third")


def test_private_is_private_and_never_public_by_mistake(runs, ann):
    publish(runs / "t5", "ann/secret", private=True)
    assert ann.repos["model", "ann/secret"].private
    publish(runs / "t5", "ann/open")
    with pytest.raises(UsageError, match="ann/open exists and everybody can read it"):
        publish(runs / "rnn", "ann/open", private=True)
    assert "modeling_rnn.py" not in ann.files("ann/open")


def test_the_space_of_a_private_model_is_private(runs, ann):
    publish(runs / "t5", "ann/m", private=True)
    publish(runs / "t5", "ann/m", space="ann/chat")
    assert ann.repos["space", "ann/chat"].private
    assert b"HF_TOKEN" in ann.files("ann/chat", "space")["README.md"]


def test_what_a_namespace_makes_private_stays_so(runs, ann):
    ann.private_by_default.add("lab")
    publish(runs / "t5", "lab/m", space="lab/chat")
    assert all(repo.private for repo in ann.repos.values()) and len(ann.repos) == 2


def test_a_repository_of_something_else_is_not_overwritten(runs, ann):
    llama = {"config.json": b"{}", "model-00001-of-00002.safetensors": b"x", "README.md": b"mine"}
    ann.add_repo("ann/llama", llama)
    ann.add_repo("ann/gallery", {"Dockerfile": b"FROM x"}, "space", sdk="docker")
    before = ann.files("ann/llama"), ann.files("ann/gallery", "space")
    with pytest.raises(UsageError, match=r"ann/llama holds something else \(.*another name"):
        publish(runs / "t5", "ann/llama")
    with pytest.raises(UsageError, match=r"ann/gallery holds something else"):
        publish(runs / "t5", "ann/m", space="ann/gallery")
    assert (ann.files("ann/llama"), ann.files("ann/gallery", "space")) == before
    assert ("model", "ann/m") not in ann.repos  # the Space is looked at before the model goes up
    ann.add_repo("ann/shown", {"model.json": b"{}"}, "space", sdk="gradio")
    with pytest.raises(UsageError, match=r"ann/shown exists and everybody can read it"):
        publish(runs / "t5", "ann/m", private=True, space="ann/shown")
    assert ("model", "ann/m") not in ann.repos


def test_who_publishes_at_the_same_time_does_not_leave_a_mixture(runs, ann, monkeypatch):
    """The other one commits between the listing and the commit of this one."""
    publish(runs / "t5", "ann/m")
    repo, commit = ann.repos["model", "ann/m"], push.HfApi.create_commit
    left = {"vocab.txt": repo.at("main").files["README.md"]}

    def late(self, *args, **kwargs):
        if "vocab.txt" not in repo.at("main").files and len(ann.commits("ann/m")) == 2:
            repo.commit("main", repo.at("main").files | left, "another model")
        return commit(self, *args, **kwargs)

    monkeypatch.setattr(push.HfApi, "create_commit", late)
    publish(runs / "rnn", "ann/m")
    assert "modeling_rnn.py" in ann.files("ann/m") and "vocab.txt" not in ann.files("ann/m")


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1", "0" * 40])
def test_only_a_branch_is_published_to(runs, ann, revision):
    publish(runs / "t5", "ann/m")
    repo = ann.repos["model", "ann/m"]
    repo.tags["v1"] = repo.at("main").oid
    with pytest.raises(UsageError, match="must be the name of a branch"):
        publish(runs / "rnn", "ann/m", revision=revision)
    assert set(repo.branches) == {"main"}


def test_turns_kept_for_a_criterion_do_not_go_up_without_samples(runs, ann, tmp_path):
    folder = shutil.copytree(runs / "t5", tmp_path / "t5")
    path = folder / "generation_config.json"
    path.write_text(json.dumps(read_json(path) | {"other_contexts": ["My turn."]}))
    with pytest.raises(UsageError, match=r"criterion other_contexts .*would go up"):
        publish(folder, "ann/m", samples=False)
    publish(folder, "ann/m")


def test_samples_are_left_out_on_request(runs, ann):
    publish(runs / "t5", "ann/m", samples=False)
    card = ann.files("ann/m")["README.md"].decode()
    rows = read_jsonl(runs / "t5" / "predictions.jsonl")
    assert not [row for row in rows if len(row["reference"]) > 20 and row["reference"] in card]
    assert "widget" not in card.split("---")[1]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_whoever_ends_an_upload_leaves_the_old_revision(runs, ann, tmp_path, kind):
    """The server takes its time; the client's threads would go on until it is through."""
    publish(runs / "rnn", "ann/m")
    before, commits = ann.files("ann/m"), len(ann.commits("ann/m"))
    ann.requests.clear()
    ann.delay = 0.3
    command = ["-m", "seq2seq_dialog", "publish", runs / "t5", "--repo", "ann/m"]
    env = ann.env(tmp_path, "hf_ann") | {"PYTHONPATH": str(ROOT)}
    process = warm.start(*command, env=env)
    while not any("/preupload" in line for line in writes(ann)):
        time.sleep(0.1)
    process.send_signal(kind)
    count = len(ann.requests)
    done = process.result()
    assert len(ann.requests) <= count + 2
    if kind == signal.SIGINT:
        assert done.returncode == 130
        assert "Stopped. What went up is kept: the same command continues." in done.stderr
        assert "Traceback" not in done.stderr
    assert ann.files("ann/m") == before and len(ann.commits("ann/m")) == commits
    ann.delay = 0
    publish(runs / "t5", "ann/m")
    assert len(ann.commits("ann/m")) == commits + 1
    assert "modeling_rnn.py" not in ann.files("ann/m")


def test_an_interrupted_upload_commits_nothing_later_and_the_process_lives_on(runs, ann):
    """As in a notebook, where threads outlive the call that is interrupted."""
    publish(runs / "rnn", "ann/m")
    before = ann.commits("ann/m")
    ann.requests.clear()
    ann.delay = 0.3

    def interrupt() -> None:
        while not any("/preupload" in line for line in writes(ann)):
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(Stopped, match="What went up is kept: the same command continues"):
            publish(runs / "t5", "ann/m")
    finally:
        signal.signal(signal.SIGINT, handler)
    (upload,) = (thread for thread in threading.enumerate() if "upload to" in thread.name)
    upload.join(timeout=60)
    assert not upload.is_alive() and ann.commits("ann/m") == before
    assert any(line.startswith("PUT ") for line in writes(ann))  # it went on with what it sent


def test_a_name_alone_is_in_ones_own_namespace(runs, ann):
    publish(runs / "t5", "mine")
    publish(runs / "t5", "lab/ours")
    assert {repo_id for _, repo_id in ann.repos} == {"ann/mine", "lab/ours"}


def test_a_space_serves_the_commit_that_was_published(runs, ann):
    publish(runs / "t5", "ann/m", space="ann/chat")
    files = ann.files("ann/chat", "space")
    assert {"app.py", "README.md", "requirements.txt"} <= set(files)
    served = json.loads(files["model.json"])
    assert served["model"] == "ann/m" and served["revision"] == ann.commits("ann/m")[0].oid
    rows = read_jsonl(runs / "t5" / "predictions.jsonl")
    assert served["openings"] and set(served["openings"]) <= {row["context"][0] for row in rows}
    assert ann.repos["space", "ann/chat"].sdk == "gradio"


# What may go wrong


@pytest.mark.parametrize(
    ("first", "after"),
    [
        (1, False),
        (2, True),
        pytest.param(3, False, marks=pytest.mark.faults),
        pytest.param(4, True, marks=pytest.mark.faults),
    ],
)
def test_a_connection_cut_anywhere_loses_nothing(runs, ann, monkeypatch, first, after):
    """At every fourth request in turn, before or after the server has done its part."""
    monkeypatch.setattr(push, "ATTEMPTS", 1)  # the second try is the person's
    ann.multipart_from = 60_000  # the weights go up in parts
    old, new = runs / "rnn", runs / "t5"
    publish(new, "ann/undisturbed", space="ann/chat")
    publish(old, "ann/model-00")
    published = deepcopy(ann.repos["model", "ann/model-00"])
    ann.requests.clear()
    publish(new, "ann/model-00", space="ann/chat-00")
    count, whole = len(ann.requests), ann.files("ann/model-00")
    assert count > 15
    failed = 0
    for n in range(first, count + 1, 4):
        repo, space = f"ann/model-{n:02}", f"ann/chat-{n:02}"
        ann.repos["model", repo] = replace(deepcopy(published), id=repo)
        before = ann.commits(repo)[0].oid
        ann.cut(n, after=after, times=20)  # beyond what the client tries by itself
        with pytest.raises(UsageError, match="the same command continues"):
            publish(new, repo, space=space)
        ann.faults.clear()
        head = ann.commits(repo)[0]
        readable = ann.files(repo)
        assert head.oid == before or head.parent == before  # nothing half
        if head.oid == before:
            failed += 1
            assert "modeling_rnn.py" in readable
        publish(new, repo, space=space)
        files = ann.files(repo)
        assert set(files) == set(whole)
        for name in files:
            assert files[name].replace(repo[4:].encode(), b"model-00") == whole[name], name
        assert len(ann.commits(repo)) == len(ann.commits("ann/model-00"))
        assert set(ann.files(space, "space")) == set(ann.files("ann/chat-00", "space"))
    assert failed > 2


# Requests, and failures that exhaust the client's own tries.
TRIED = {
    "/create": 1,
    "/preupload": 6,
    "/batch": 6,
    "/commit/": 1,
    "PUT ": 11,  # of two files at once: one of them fails six times
    "/verify": 11,
}


@pytest.mark.parametrize("on", TRIED)
@pytest.mark.parametrize("fault", ["cut", 500, 503])
def test_a_passing_failure_is_tried_again(runs, ann, fault, on, caplog):
    options = {"on": on, "times": TRIED[on]}
    ann.cut(**options) if fault == "cut" else ann.fail(status=fault, **options)
    publish(runs / "t5", "ann/m")
    assert "pipeline.py" in ann.files("ann/m") and len(ann.commits("ann/m")) == 2
    assert "trying again" in caplog.text


@pytest.mark.parametrize(
    ("status", "message", "translation"),
    [
        (403, "Private repository storage limit reached.", "no room for ann/m: Private"),
        (403, "You don't have the rights.", "may not write to ann/m: You don't have the rights"),
        (429, "Too many requests", r"cannot serve ann/m now \(429"),
        (500, "Internal", r"cannot serve ann/m now \(500"),
        (413, "Payload too large", "no room for ann/m"),
        (402, "Please upgrade", "wants to be paid for ann/m: Please upgrade"),
        (400, "Bad name", r"refuses ann/m \(400\): .*Bad name"),
    ],
)
def test_errors_of_the_server_come_with_the_next_step(runs, ann, status, message, translation):
    publish(runs / "rnn", "ann/m")
    before = ann.files("ann/m")
    ann.fail(status=status, message=message, on="/commit/", times=99)
    with pytest.raises(UsageError, match=translation) as error:
        publish(runs / "t5", "ann/m")
    assert "\n" not in str(error.value) and "hf_ann" not in str(error.value)
    assert ann.files("ann/m") == before


def test_who_may_not_write_is_told_before_anything_is_sent(runs, hub, monkeypatch):
    hub.add_user("ann", "hf_read", role="read")
    hub.add_user("bob", "hf_bob")
    hub.add_repo("bob/m")
    for token, repo, message in (
        (None, "ann/m", r"Not logged in.*hf auth login.*HF_TOKEN"),
        ("hf_nobody", "ann/m", "does not know this token"),
        ("hf_read", "ann/m", "may only read.*settings/tokens"),
        ("hf_ann", "bob/m", r"'bob' in 'bob/m' is not yours.*ann, lab"),
        ("hf_ann", "nowhere/m", "'nowhere' in 'nowhere/m' is not yours"),
        ("hf_ann", "ann/../m", "cannot be the name of a repository"),
        ("hf_ann", "a b", "cannot be the name of a repository"),
    ):
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(UsageError, match=message) as error:
            publish(runs / "t5", repo)
        assert token is None or token not in str(error.value)
    assert {path for _, path, _ in hub.requests} == {"/api/whoami-v2"}


def test_a_missing_network_is_named(runs, ann, monkeypatch):
    from huggingface_hub import constants

    ann.down = True
    with pytest.raises(
        UsageError, match=r"no connection to the Hub at http.*same command continues"
    ):
        publish(runs / "t5", "ann/m")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"HF_HUB_OFFLINE is set"):
        publish(runs / "t5", "ann/m")


def test_a_failure_of_xet_is_no_missing_network(runs, ann, monkeypatch):
    """This Hub has no such storage: it knows no token for it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(UsageError, match=r"Xet does not work.*HF_HUB_DISABLE_XET=1") as error:
        publish(runs / "t5", "ann/m")
    assert "no connection" not in str(error.value)


def test_hints_and_links_are_those_of_the_hub_in_use(runs, ann, monkeypatch):
    publish(runs / "t5", "ann/m", space="ann/chat")
    assert f"{ann.url}/ann/m" in ann.files("ann/chat", "space")["README.md"].decode()
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    with pytest.raises(UsageError, match=f"{ann.url}/settings/tokens"):
        publish(runs / "t5", "ann/m")


# A run that publishes itself


def test_a_run_remembers_of_which_corpus_its_dialogues_are(runs, ann):
    assert read_json(runs / "t5" / "environment.json")["corpus"] == SAMPLE_CORPUS
    publish(runs / "t5", "ann/m")
    assert b"license: apache-2.0" in ann.files("ann/m")["README.md"]


def test_a_licence_that_dailydialog_forbids_is_refused_before_the_training(
    runs, ann, tmp_path, known_as_dailydialog
):
    lines = SAMPLES.read_text(encoding="utf-8").split("\n")[:60]
    known_as_dailydialog(turn for line in lines for turn in line.split("__eou__"))
    flags = [*settings(runs, "t5"), "--output_dir", str(tmp_path / "chatty")]
    with pytest.raises(UsageError, match=r"'mit'.*DailyDialog.*no commercial use"):
        train.main([*flags, "--push_to_hub", "true", "--license", "mit"])
    assert not (tmp_path / "chatty").exists()


def test_a_run_publishes_itself_and_the_same_command_does_it_again(runs, ann, tmp_path, caplog):
    flags = [*settings(runs, "t5"), "--output_dir", str(tmp_path / "chatty")]
    flags += ["--push_to_hub", "true", "--report_to", "none"]
    ann.down = True
    with pytest.raises(UsageError, match="no connection to the Hub"):
        train.main(flags)
    assert not (tmp_path / "chatty").exists()  # refused before hours of training

    ann.down = False
    ann.fail(status=403, message="quota", on="/commit/", times=99)
    with pytest.raises(UsageError, match="no room for ann/chatty"):
        train.main(flags)
    assert (tmp_path / "chatty" / "metrics.json").exists()
    ann.faults.clear()
    weights = (tmp_path / "chatty" / "model.safetensors").stat().st_mtime_ns
    train.main(flags)  # complete, so it is published
    assert (tmp_path / "chatty" / "model.safetensors").stat().st_mtime_ns == weights
    assert len(ann.commits("ann/chatty")) == 2  # no checkpoint went up on the way
    assert not [name for name in ann.files("ann/chatty") if "checkpoint" in name]
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hf_ann" not in path.read_bytes()


def test_publishing_comes_before_printing_and_its_failure_hides_no_figures(monkeypatch):
    done = []

    def fail(*_, **options):
        done.append("publish")
        raise UsageError("no connection")

    monkeypatch.setattr(train.publish_model, "publish", fail)
    monkeypatch.setattr(train, "print_run", lambda *_: done.append("print"))
    with pytest.raises(UsageError, match="no connection"):
        train.publish_and_print("ann/m", parse(["demo"]), None)
    assert done == ["publish", "print"]


def test_a_token_on_the_command_line_is_refused(runs):
    with pytest.raises(UsageError, match=r"hub_token has no effect here: .*hf auth login"):
        train.main([*settings(runs, "t5"), "--hub_token", "hf_ann"])


# Whoever calls it

CALL = """
import json, sys
import transformers
from transformers import pipeline
repo, revision, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
new = int(transformers.__version__.split(".")[0]) >= 5
trust = {"trust_remote_code": True} if new or sys.argv[4] == "rnn" else {}
chat = pipeline("text2text-generation", model=repo, revision=revision, **trust)
print("RESULT" + json.dumps([chat(text)[0]["generated_text"] for text in texts]))
"""


def in_a_clean_process(python, code, *args, server, home, token=None):
    done = warm.run("-c", code, *args, python=python, cwd=home, env=server.env(home, token))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.legacy
@pytest.mark.parametrize("kind", MODELS)
def test_both_lines_call_the_published_model(runs, ann, tmp_path, legacy_python, kind):
    publish(runs / kind, "ann/m", private=True, revision="try/first")
    expected = local(runs / kind)
    assert len(set(expected)) > 1
    for line, python in (("new", sys.executable), ("old", legacy_python)):
        home = tmp_path / line
        home.mkdir()
        args = ("ann/m", "try/first", json.dumps(TEXTS), kind)
        out = in_a_clean_process(python, CALL, *args, server=ann, home=home, token="hf_ann")
        assert json.loads(out.split("RESULT")[1]) == expected
        ran = [p for p in (home / "modules").rglob("*.py") if p.name != "__init__.py"]
        assert ran or (kind, line) == ("t5", "old")  # there nothing has to be trusted
        for path in ran:
            assert path.read_bytes() == (artifact.PORTABLE / path.name).read_bytes()


@pytest.mark.legacy
@pytest.mark.parametrize("kind", MODELS)
def test_every_code_block_of_the_card_runs_as_printed(runs, ann, tmp_path, legacy_python, kind):

    publish(runs / kind, "ann/m")
    blocks = code_blocks(ann.files("ann/m")["README.md"].decode())
    for line, python in (("5", sys.executable), ("4.57", legacy_python)):
        mine = [code for name, code in blocks if name in (line, "both")]
        assert any("pipeline(" in code for code in mine)
        # Each block by itself, in one process for the sake of time.
        code = "import json, sys\nfor code in json.loads(sys.argv[1]):\n    exec(code, {})\n"
        home = tmp_path / line
        home.mkdir()
        out = in_a_clean_process(python, code, json.dumps(mine), server=ann, home=home)
        assert out.strip()


def test_load_and_chat_take_the_name_on_the_hub(runs, ann):
    publish(runs / "t5", "ann/m")
    assert local("ann/m") == local(runs / "t5")
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained("ann/m"), torch.nn.Module)
