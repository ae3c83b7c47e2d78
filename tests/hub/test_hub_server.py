"""The test Hub serves the real clients of both lines, and is as strict as the real one."""

import hashlib
import json
import sys
import textwrap
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from datasets import DatasetDict, load_dataset
from helpers import warm
from helpers.corpus import TEXTS
from helpers.hub_cards import check_card
from helpers.hub_server import Hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

from seq2seq_dialog.serve.inference import generate_response, load

CARD = "---\nlicense: mit\ntags: [dialogue]\n---\n# A model\n"
LINES = ["current", pytest.param("legacy", marks=pytest.mark.legacy)]


@pytest.fixture
def python(request):
    """The interpreter of a line: `@pytest.mark.parametrize("python", LINES, indirect=True)`."""
    if request.param == "legacy":
        return str(request.getfixturevalue("legacy_python"))
    return sys.executable


def run(python, code, env, *arguments):
    """Run `code`, which prints RESULT and JSON, with a client's environment."""
    done = warm.run("-c", textwrap.dedent(code), *arguments, python=python, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path):
    """Files of every kind: text, named as weights, larger than a part, binary."""
    folder = tmp_path / "folder"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    (folder / "sub" / "large.bin").write_bytes(b"0123456789" * 250)
    (folder / "sub" / "deep" / "curve.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (folder / "empty.txt").write_text("")
    return folder


CLIENT = """
    import json, sys
    from pathlib import Path
    from huggingface_hub import (
        CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
    )

    folder, api, out = Path(sys.argv[1]), HfApi(), {}
    out["name"] = api.whoami()["name"]
    url = api.create_repo("ann/model", private=True)
    out["url"], out["again"] = str(url), api.create_repo("ann/model", exist_ok=True).repo_id
    first = api.upload_folder(repo_id="ann/model", folder_path=folder)
    second = api.upload_folder(repo_id="ann/model", folder_path=folder)
    out["oid"], out["same"], out["page"] = first.oid, second.oid, first.commit_url
    out["files"] = api.list_repo_files("ann/model")
    tree = list(api.list_repo_tree("ann/model", recursive=True))
    out["tree"] = {t.path: getattr(t, "size", "folder") for t in tree}
    out["top"] = [t.path for t in api.list_repo_tree("ann/model")]
    out["inside"] = [t.path for t in api.list_repo_tree("ann/model", "sub", expand=True)]
    weights = next(t for t in tree if t.path == "model.safetensors")
    out["lfs"] = [weights.lfs.sha256, weights.lfs.size, weights.blob_id]
    paths = ["config.json", "sub", "nothing"]
    out["paths"] = [p.path for p in api.get_paths_info("ann/model", paths)]
    info = api.model_info("ann/model", files_metadata=True)
    out["info"] = [info.id, info.sha, info.private, info.card_data.license, info.tags]
    out["sizes"] = {s.rfilename: s.size for s in info.siblings}
    names = [("ann/model", "config.json"), ("ann/model", "no"), ("ann/no", "config.json")]
    out["exists"] = [api.file_exists(*name) for name in names]
    api.create_branch("ann/model", branch="dev/a")
    api.create_branch("ann/model", branch="dev/a", exist_ok=True)
    api.create_tag("ann/model", tag="v1")
    operations = [CommitOperationAdd("new.txt", b"new"), CommitOperationDelete("sub/")]
    commit = api.create_commit("ann/model", operations, commit_message="Change", revision="dev/a")
    out["titles"] = [c.title for c in api.list_repo_commits("ann/model", revision="dev/a")]
    refs = api.list_repo_refs("ann/model")
    out["refs"] = {r.name: r.target_commit for r in refs.branches + refs.tags}
    path = hf_hub_download("ann/model", "model.safetensors", revision="v1")
    out["download"] = Path(path).read_bytes() == (folder / "model.safetensors").read_bytes()
    snapshot = Path(snapshot_download("ann/model", revision="dev/a"))
    names = ["README.md", "config.json", "empty.txt", "new.txt"]
    out["snapshot"] = [(snapshot / name).read_text() for name in names]
    out["gone"] = not (snapshot / "sub").exists()
    old = Path(snapshot_download("ann/model", revision=first.oid))
    out["old"] = sorted(str(p.relative_to(old)) for p in old.rglob("*") if p.is_file())

    api.create_repo("lab/data", repo_type="dataset")
    data = dict(repo_id="lab/data", repo_type="dataset")
    api.upload_file(path_or_fileobj=b"PAR1", path_in_repo="data/train.parquet", **data)
    out["data"] = [s.rfilename for s in api.dataset_info("lab/data").siblings]
    out["space"] = str(api.create_repo("ann/space", repo_type="space", space_sdk="gradio"))
    out["sdk"] = api.space_info("ann/space").sdk

    def error(call, *args, **options):
        try:
            call(*args, **options)
        except Exception as e:
            return [type(e).__name__, str(e)]

    nobody, wrong = HfApi(token=False), HfApi(token="hf_wrong")
    lazy = CommitOperationAdd("README.md", b"---\\nlicense: nonsense\\n---\\n")
    stale = dict(commit_message="m", parent_commit="0" * 40)
    out["errors"] = {
        "missing": error(api.model_info, "ann/no"),
        "private": error(nobody.model_info, "ann/model"),
        "token": error(wrong.whoami),
        "branch": error(api.list_repo_files, "ann/model", revision="no"),
        "file": error(hf_hub_download, "ann/model", "no"),
        "taken": error(api.create_repo, "ann/model"),
        "namespace": error(api.create_repo, "bob/model"),
        "card": error(api.create_commit, "ann/model", [lazy], commit_message="m"),
        "stale": error(api.create_commit, "ann/model", [CommitOperationAdd("x", b"")], **stale),
        "delete": error(api.delete_file, "no", "ann/model"),
    }
    print("RESULT" + json.dumps(out))
"""


@pytest.mark.parametrize("python", LINES, indirect=True)
def test_the_hub_clients_do_all_they_can(python, folder, tmp_path):
    with Hub() as hub:
        hub.multipart_from = 1000
        hub.page = 3
        hub.add_user("ann", "hf_ann", orgs=("lab",))
        hub.add_user("bob", "hf_bob")
        out = run(python, CLIENT, hub.env(tmp_path / "home", "hf_ann"), folder)
        oid, local = out["oid"], files_of(folder)

        assert out["name"] == "ann" and out["again"] == "ann/model"
        assert out["url"] == f"{hub.url}/ann/model"
        assert out["space"] == f"{hub.url}/spaces/ann/space"
        assert out["page"] == f"{hub.url}/ann/model/commit/{oid}"

        there = hub.files("ann/model", revision=oid)
        attributes = there.pop(".gitattributes").decode()
        assert there == local
        assert "curve.png filter=lfs" in attributes  # binary, though no rule said so
        assert out["same"] == oid == hub.commits("ann/model")[0].oid
        assert len(hub.commits("ann/model")) == 2  # the Hub's first, and one with everything
        batches = [r for r in hub.requests if r[1] == "/ann/model.git/info/lfs/objects/batch"]
        puts = [r for r in hub.requests if r[0] == "PUT" and "/models/" in r[1]]
        assert len(batches) > 1 and len(puts) == len(set(puts)) == 1 + 3 + 1

        assert out["files"] == sorted([*local, ".gitattributes"])
        assert out["tree"] == out["sizes"] | {"sub": "folder", "sub/deep": "folder"}
        assert out["sizes"] == {p: len(d) for p, d in hub.files("ann/model").items()}
        assert set(out["top"]) == {p.split("/")[0] for p in out["files"]}
        assert out["inside"] == ["sub/deep", "sub/large.bin"]
        assert out["paths"] == ["config.json", "sub"]
        weights = hashlib.sha256(local["model.safetensors"]).hexdigest()
        assert out["lfs"][:2] == [weights, 256] and len(out["lfs"][2]) == 40
        assert out["info"] == ["ann/model", oid, True, "mit", ["dialogue"]]
        assert out["exists"] == [True, False, False]

        assert out["titles"] == ["Change", "Upload folder using huggingface_hub", "initial commit"]
        assert out["refs"]["main"] == out["refs"]["v1"] == oid != out["refs"]["dev/a"]
        assert out["download"]
        assert out["snapshot"] == [CARD, '{"model_type": "t5"}', "", "new"] and out["gone"]
        assert out["old"] == out["files"]
        assert out["data"] == [".gitattributes", "data/train.parquet"] and out["sdk"] == "gradio"
        expected = {
            "missing": ("RepositoryNotFoundError", "404"),
            "private": ("RepositoryNotFoundError", "401"),
            "token": ("", "Invalid user token"),
            "branch": ("RevisionNotFoundError", "Invalid rev id: no"),
            "file": ("EntryNotFoundError", "404"),
            "taken": ("HfHubHTTPError", "You already created this model repo"),
            "namespace": ("HfHubHTTPError", "don't have the rights to create a model under"),
            "card": ("ValueError", '"license" must be one of'),
            "stale": ("HfHubHTTPError", "A commit has happened since"),
            "delete": ("EntryNotFoundError", "A file with this name doesn't exist"),
        }
        for name, (kind, message) in expected.items():
            assert out["errors"][name][0].endswith(kind), name
            assert message in out["errors"][name][1], name
        assert ("dataset", "lab/data") in hub.repos


CONSUMER = """
    import json, sys
    from datasets import load_dataset
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, pipeline

    texts, out = json.loads(sys.argv[1]), {}
    answer = pipeline("text2text-generation", model="ann/model")
    out["replies"] = [r["generated_text"] for r in answer(texts)]
    model = AutoModelForSeq2SeqLM.from_pretrained("ann/model", revision="main")
    out["vocabulary"] = len(AutoTokenizer.from_pretrained("ann/model"))
    out["parameters"] = model.num_parameters()
    data = load_dataset("ann/data")
    out["rows"] = {split: data[split].to_list() for split in data}
    out["features"] = str(data["train"].features)
    data.push_to_hub("ann/pushed")
    out["pushed"] = load_dataset("ann/pushed", split="test").to_list()
    print("RESULT" + json.dumps(out))
"""


@pytest.fixture
def published(hub, saved, rows, tmp_path):
    """A Hub with a model and a data set; (replies, splits) to find there."""
    api = HfApi(endpoint=hub.url, token="hf_ann")
    api.create_repo("ann/model")
    api.upload_folder(repo_id="ann/model", folder_path=saved)
    splits = DatasetDict(train=rows, test=rows.select(range(5)))
    info, configs = [], []
    (tmp_path / "data" / "data").mkdir(parents=True)
    for name, split in splits.items():
        size = split.to_parquet(tmp_path / "data" / "data" / f"{name}.parquet")
        info.append({"name": name, "num_bytes": size, "num_examples": len(split)})
        configs.append({"split": name, "path": f"data/{name}.parquet"})
    features = [
        {"name": "dialogue_id", "dtype": "string"},
        {"name": "turn", "dtype": "int64"},
        {"name": "context", "sequence": "string"},
        {"name": "response", "dtype": "string"},
    ]
    metadata = {
        "license": "apache-2.0",
        "dataset_info": {"features": features, "splits": info},
        "configs": [{"config_name": "default", "data_files": configs}],
    }
    (tmp_path / "data" / "README.md").write_text(f"---\n{json.dumps(metadata)}\n---\n")
    api.create_repo("ann/data", repo_type="dataset")
    api.upload_folder(repo_id="ann/data", repo_type="dataset", folder_path=tmp_path / "data")
    model, tokenizer, _ = load(saved, "cpu")
    return [generate_response(t, model, tokenizer) for t in TEXTS], splits


def test_this_process_reaches_the_hub(hub, published, monkeypatch):
    replies, splits = published
    answer = pipeline("text2text-generation", model="ann/model", trust_remote_code=True)
    assert [r["generated_text"] for r in answer(TEXTS)] == replies
    assert AutoModelForSeq2SeqLM.from_pretrained("ann/model", revision="main")
    assert AutoTokenizer.from_pretrained("ann/model")
    found = load_dataset("ann/data")
    assert {name: found[name].to_list() for name in found} == {
        name: split.to_list() for name, split in splits.items()
    }
    assert found["train"].features == splits["train"].features
    assert get_token() is None
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    found.push_to_hub("ann/pushed")
    assert load_dataset("ann/pushed", split="test").to_list() == splits["test"].to_list()
    assert not any(status is None or status >= 500 for _, _, status in hub.requests)


@pytest.mark.legacy
def test_the_older_line_loads_models_and_data_sets(hub, published, legacy_python, tmp_path):
    replies, splits = published
    env = hub.env(tmp_path / "legacy-home", "hf_ann")
    out = run(str(legacy_python), CONSUMER, env, json.dumps(TEXTS))
    assert out["replies"] == replies
    assert out["rows"] == {name: split.to_list() for name, split in splits.items()}
    assert out["pushed"] == out["rows"]["test"]
    assert "response" in out["features"] and out["parameters"] > 0 and out["vocabulary"] > 0


def publish(hub, repo_id, folder):
    api = HfApi(endpoint=hub.url, token="hf_ann")
    api.create_repo(repo_id, exist_ok=True)
    api.upload_folder(repo_id=repo_id, folder_path=folder)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_wherever_it_is_cut_a_commit_is_whole_or_not_there(hub, folder, after):
    hub.multipart_from = 1000
    before = {"old.txt": b"old"}
    hub.add_repo("ann/whole", before)
    publish(hub, "ann/whole", folder)
    number, whole = len(hub.requests), hub.files("ann/whole")
    assert number > 8
    kept = []
    for n in range(1, number + 1):
        name = f"ann/cut-{n}"
        old = hub.add_repo(name, before).at("main").oid
        hub.requests.clear()
        hub.cut(n, after=after)
        try:
            publish(hub, name, folder)
        except Exception:
            kept.append(hub.requests[n - 1][1])
            committed = after and "/commit/" in kept[-1]
            assert len(hub.commits(name)) == 2 + committed
            assert committed or hub.commits(name)[0].oid == old
        assert hub.requests[n - 1][2] is None
        publish(hub, name, folder)
        assert hub.files(name) == whole and len(hub.commits(name)) == 3
        assert hub.files(name, revision=old)["old.txt"] == b"old"
    assert any("/commit/" in path for path in kept)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_errors_are_sent_as_often_as_asked(hub, folder, status):
    hub.fail(2, status, times=2, on="PUT", headers={"Retry-After": "1"})
    publish(hub, "ann/model", folder)
    puts = [found for method, _, found in hub.requests if method == "PUT"]
    assert sorted(puts) == [200] * 3 + [status] * 2
    hub.fail(1, 403, "Private repository storage limit reached", on="POST /api/.*/preupload")
    with pytest.raises(HfHubHTTPError, match="storage limit reached"):
        publish(hub, "ann/model", folder)


def test_an_error_after_the_commit_leaves_the_commit(hub):
    hub.add_repo("ann/model")
    hub.fail(1, 504, on="/commit/", after=True)
    operations = [CommitOperationAdd("a", b"a")]
    api = HfApi(endpoint=hub.url, token="hf_ann")
    with pytest.raises(HfHubHTTPError, match="504"):
        api.create_commit("ann/model", operations, commit_message="m")
    assert hub.files("ann/model")["a"] == b"a"


def test_a_hub_that_is_down_cuts_every_connection(hub):
    api = HfApi(endpoint=hub.url, token="hf_ann")
    assert api.whoami()["name"] == "ann"
    hub.down = True
    for _ in range(2):
        with pytest.raises(Exception, match=r"disconnect|reset|closed"):
            api.whoami()
    hub.down = False
    assert api.whoami()["name"] == "ann"


def test_rights_are_those_of_the_token(hub):
    hub.add_user("ann", "hf_read", orgs=("lab",), role="read")
    hub.add_user("ann", "hf_fine", orgs=("lab",), role="fineGrained", scope=("ann/model",))
    hub.add_user("bob", "hf_bob", orgs={"lab": "read"}, pro=False)
    for name in ("ann/model", "ann/other", "lab/model"):
        hub.add_repo(name, {"a.txt": b"a"}, private=name != "ann/other")

    def allowed(token):
        api, found = HfApi(endpoint=hub.url, token=token), ""
        for name in ("ann/model", "ann/other", "lab/model"):
            try:
                api.model_info(name)
                found += "r"
                operation = CommitOperationAdd("b.txt", token.encode())
                api.create_commit(name, [operation], commit_message="m")
                found += "w"
            except RepositoryNotFoundError:
                found += "-"
            except HfHubHTTPError as e:
                assert e.response.status_code == 403
            found += " "
        return found.strip()

    rights = {token: allowed(token) for token in ("hf_ann", "hf_read", "hf_fine", "hf_bob")}
    assert rights == {
        "hf_ann": "rw rw rw",
        "hf_read": "r r r",
        "hf_fine": "rw r -",
        "hf_bob": "- r r",
    }
    fine = HfApi(endpoint=hub.url, token="hf_fine").whoami()["auth"]["accessToken"]
    assert fine["role"] == "fineGrained"
    assert fine["fineGrained"]["scoped"][0]["entity"]["name"] == "ann/model"
    bob = HfApi(endpoint=hub.url, token="hf_bob")
    for repo_id, error in (("lab/new", "403"), ("nobody/new", "403"), ("ann/new", "403")):
        with pytest.raises(HfHubHTTPError, match=error):
            bob.create_repo(repo_id)
    with pytest.raises(HfHubHTTPError, match="402"):
        bob.create_repo("bob/space", repo_type="space", space_sdk="gradio")
    bob.create_repo("bob/space", repo_type="space", space_sdk="static")
    hub.add_repo("ann/gated", {"a.txt": b"a"}, gated=True)
    assert bob.model_info("ann/gated").gated == "auto"
    with pytest.raises(GatedRepoError):
        bob.hf_hub_download("ann/gated", "a.txt")
    assert HfApi(endpoint=hub.url, token="hf_ann").hf_hub_download("ann/gated", "a.txt")


def post(hub, path, *lines):
    """(status, answer) of a request of our own making."""
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    headers = {"Authorization": "Bearer hf_ann"}
    request = urllib.request.Request(hub.url + path, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


HEADER = {"key": "header", "value": {"summary": "s"}}


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        ({"key": "lfsFile", "value": {"path": "w.bin", "oid": "0" * 64, "size": 1}}, "LFS pointer"),
        ({"key": "file", "value": {"path": "../a", "content": ""}}, "Invalid path"),
        ({"key": "file", "value": {"path": ".git/config", "content": ""}}, "Invalid path"),
        ({"key": "file", "value": {"path": "b", "content": "A" * 4 * 2**22}}, "larger than 10 MiB"),
        (
            {"key": "file", "value": {"path": "README.md", "content": "LS0tCmE6IFsKLS0tCg=="}},
            "YAML",
        ),
        ({"key": "deletedFolder", "value": {"path": "a.txt"}}, "doesn't exist"),
        ({"key": "rename", "value": {"path": "a"}}, "Unknown operation"),
        ({"key": "file"}, "Malformed"),
    ],
)
def test_a_commit_with_one_wrong_line_is_refused_whole(hub, operation, error):
    hub.add_repo("ann/model", {"a.txt": b"a"})
    good = {"key": "file", "value": {"path": "good", "content": "", "encoding": "base64"}}
    status, answer = post(hub, "/api/models/ann/model/commit/main", HEADER, good, operation)
    assert status in (400, 404) and error in answer["error"]
    assert len(hub.commits("ann/model")) == 2 and "good" not in hub.files("ann/model")


def test_storage_takes_the_promised_bytes_at_signed_addresses_alone(hub):
    hub.add_repo("ann/model", {"w.bin": b"0123456789"}, private=True)
    hub.multipart_from = 4

    def ask(method, url, body=None, headers=()):
        request = urllib.request.Request(url, body, dict(headers), method=method)
        try:
            with urllib.request.urlopen(request) as response:
                return response.status, response.read(), response.headers
        except urllib.error.HTTPError as e:
            return e.code, e.read(), e.headers

    data = b"new bytes"
    asked = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
    batch = {"operation": "upload", "transfers": ["multipart"], "objects": [asked]}
    _, answer = post(hub, "/ann/model.git/info/lfs/objects/batch", batch)
    upload = answer["objects"][0]["actions"]["upload"]
    urls = [upload["header"][key] for key in sorted(upload["header"]) if key.isdigit()]
    assert upload["header"]["chunk_size"] == "4" and len(urls) == 3
    assert ask("PUT", urls[0], b"new ", {"Authorization": "Bearer hf_ann"})[0] == 400
    assert ask("PUT", urls[0].replace("signature=", "signature=0"), b"new ")[0] == 403
    sent = [ask("PUT", url, data[i * 4 : i * 4 + 4]) for i, url in enumerate(urls)]
    tags = [{"partNumber": i + 1, "etag": s[2]["ETag"]} for i, s in enumerate(sent)]

    def complete(parts):
        return ask("POST", upload["href"], json.dumps({"parts": parts}).encode())[0]

    assert complete([{**tags[0], "etag": '"other"'}]) == 400
    assert complete(tags[:2]) == 400
    assert post(hub, "/ann/model.git/info/lfs/objects/verify", asked)[0] == 404
    assert complete(tags) == 200
    assert post(hub, "/ann/model.git/info/lfs/objects/verify", asked)[0] == 200
    _, answer = post(hub, "/ann/model.git/info/lfs/objects/batch", batch)
    assert "actions" not in answer["objects"][0]  # it is there

    page = f"{hub.url}/ann/model/resolve/main/w.bin"
    token = {"Authorization": "Bearer hf_ann"}
    assert ask("GET", page)[0] == 401

    class Stop(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_):
            return None

    with pytest.raises(urllib.error.HTTPError) as caught:
        request = urllib.request.Request(page, headers=token, method="HEAD")
        urllib.request.build_opener(Stop).open(request)
    headers = caught.value.headers
    assert caught.value.code == 302 and headers["X-Linked-Size"] == "10"
    assert headers["X-Linked-Etag"].strip('"') == hashlib.sha256(b"0123456789").hexdigest()
    assert headers["X-Repo-Commit"] == hub.commits("ann/model")[0].oid
    place = headers["Location"]
    assert ask("GET", place)[1] == b"0123456789"
    for asked, status, found in (
        ("bytes=2-4", 206, b"234"),
        ("bytes=7-", 206, b"789"),
        ("bytes=-2", 206, b"89"),
        ("bytes=8-99", 206, b"89"),
        ("bytes=10-", 416, b""),
    ):
        assert ask("GET", place, headers={"Range": asked})[:2] == (status, found)


def test_every_revision_stays_readable(hub):
    api = HfApi(endpoint=hub.url, token="hf_ann")
    api.create_repo("ann/model")
    oids = []
    for n in range(3):
        operations = [CommitOperationAdd("n.txt", b"%d" % n)]
        oids.append(api.create_commit("ann/model", operations, commit_message=f"{n}").oid)
    api.create_commit("ann/model", [CommitOperationDelete("n.txt")], commit_message="gone")
    for n, oid in enumerate(oids):
        path = api.hf_hub_download("ann/model", "n.txt", revision=oid)
        assert Path(path).read_text() == str(n)
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("ann/model", "n.txt")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download("ann/model", "n.txt", revision="0" * 40)
    assert [c.title for c in hub.commits("ann/model")] == ["gone", "2", "1", "0", "initial commit"]


def test_a_client_process_gets_nothing_of_this_ones_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with Hub() as hub:
        env = hub.env(tmp_path)
        assert "hf_secret" not in env.values() and "HTTPS_PROXY" not in env
        assert "HF_HUB_OFFLINE" not in env and env["HF_HUB_DISABLE_XET"] == "1"
        assert hub.env(tmp_path, "hf_ann")["HF_TOKEN"] == "hf_ann"


GOOD = {
    "model": """
        license: [mit, cc-by-nc-sa-4.0]
        language: [en, multilingual]
        library_name: transformers
        pipeline_tag: text-generation
        tags: [text2text-generation, custom_code, dialogue]
        base_model: google-t5/t5-small
        datasets: [lab/data]
        metrics: [bleu]
        inference: false
        widget:
        - {text: Hi!, example_title: A greeting, output: {text: Hello.}}
        - {messages: [{role: user, content: Hi!}], output: {text: Hello.}}
        model-index:
        - name: chat
          results:
          - task: {type: text-generation, name: Dialogue}
            dataset: {type: lab/data, name: Data, split: test}
            metrics:
            - {type: bleu, value: 1.5, name: BLEU, args: {signature: x}}
            source: {url: "https://example.org", name: paper}
        """,
    "dataset": """
        license: cc-by-nc-sa-4.0
        language: en
        task_categories: [text-generation]
        size_categories: [1K<n<10K]
        configs:
        - {config_name: default, data_files: [{split: train, path: data/train-*}]}
        dataset_info:
          features: [{name: a, dtype: string}]
          splits: [{name: train, num_bytes: 3, num_examples: 1}]
        """,
    "space": """
        title: Chat
        emoji: 💬
        colorFrom: blue
        colorTo: gray
        sdk: gradio
        sdk_version: 5.49.1
        app_file: app.py
        pinned: false
        models: [ann/model]
        """,
}
RESULT = "{task: {type: t}, dataset: {type: d, name: d}, metrics: [{type: bleu, value: 1}]}"


def card(kind, **changes):
    """A good card with keys replaced by other YAML, or left out (None)."""
    blocks = textwrap.dedent(GOOD[kind]).strip().split("\n")
    kept, key = [], None
    for line in blocks:
        key = line.split(":")[0] if line[0].isalpha() else key
        if key.replace("-", "_") not in changes:
            kept.append(line)
    lines = [f"{k.replace('model_', 'model-')}: {v}" for k, v in changes.items() if v is not None]
    return "---\n" + "\n".join(kept + lines) + "\n---\n# Title\n"


@pytest.mark.parametrize("kind", GOOD)
def test_good_metadata_passes(kind):
    assert check_card(card(kind), kind) == ([], [])


@pytest.mark.parametrize(
    ("kind", "key", "value", "message"),
    [
        ("model", "license", "nonsense", '"license" must be one of'),
        ("model", "license", "{a: b}", '"license" must be a string or an array'),
        ("model", "language", "english", '"language" with value "english" is not valid'),
        ("model", "language", "en-GB", "ISO 639"),
        ("model", "tags", "dialogue", '"tags" must be an array'),
        ("model", "tags", "[1]", '"tags[0]" must be a string'),
        ("model", "pipeline_tag", "[a]", '"pipeline_tag" must be a string'),
        ("model", "base_model", "/home/ann/run", '"base_model" with value "/home/ann/run" is not'),
        ("model", "datasets", "[../data]", '"datasets[0]" with value'),
        ("model", "metrics", "bleu", '"metrics" must be an array'),
        ("model", "widget", "[{output: {text: a}}]", '"widget[0]" must contain an input'),
        ("model", "widget", "[{text: 3}]", '"widget[0].text" must be a string'),
        ("model", "widget", "[{text: a, output: b}]", '"widget[0].output" must be an object'),
        ("model", "model_index", "[{results: []}]", '"model-index[0].name" is required'),
        ("model", "model_index", "[{name: m}]", '"model-index[0].results" is required'),
        (
            "model",
            "model_index",
            "[{name: m, results: [" + RESULT.replace("{type: t}", "{name: t}") + "]}]",
            '"model-index[0].results[0].task.type" is required',
        ),
        (
            "model",
            "model_index",
            "[{name: m, results: [" + RESULT.replace("type: d", "type: Daily Dialog") + "]}]",
            "fails to match the required pattern",
        ),
        (
            "model",
            "model_index",
            "[{name: m, results: [" + RESULT.replace("value: 1", "value: .nan") + "]}]",
            "must be a finite number",
        ),
        ("model", "x", "1\nx: 2", "duplicated mapping key 'x'"),
        ("model", "x", "[", "Invalid YAML"),
        ("dataset", "configs", "[{data_files: a}]", '"configs[0].config_name" is required'),
        ("dataset", "dataset_info", "{features: [{dtype: string}]}", "features[0].name"),
        ("dataset", "license", "cc-by-nc-sa", '"license" must be one of'),
        ("space", "sdk", None, '"sdk" is required'),
        ("space", "sdk", "flask", '"sdk" must be one of [gradio, streamlit, docker, static]'),
        ("space", "colorFrom", "orange", '"colorFrom" must be one of [red, yellow, green'),
        ("space", "emoji", "chat", '"emoji" must be an emoji'),
        ("space", "pinned", '"no"', '"pinned" must be a boolean'),
        ("space", "short_description", "a" * 61, "less than or equal to 60 characters"),
    ],
)
def test_wrong_metadata_is_refused(kind, key, value, message):
    errors, _ = check_card(card(kind, **{key: value}), kind)
    assert len(errors) == 1 and message in errors[0]


def test_doubtful_metadata_is_warned_of():
    assert "empty or missing" in check_card("# No metadata\n", "model")[1][0]
    errors, warnings = check_card(card("model", pipeline_tag="text2text-generation"), "model")
    assert not errors and 'pipeline tag "text2text-generation" is not in' in warnings[0]
    _, warnings = check_card(card("dataset", task_categories="[conversational]"), "dataset")
    assert 'task_categories "conversational" is not in the official list' in warnings[0]
