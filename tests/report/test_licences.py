"""The terms of a base model and of data, read from their cards: on the Hub, in its cache, here."""

import pytest
from huggingface_hub import constants
from transformers import AutoConfig

from seq2seq_dialog.data.known_corpora import SAMPLES
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.report.licences import (
    card_license,
    check_terms,
    data_terms,
    describe_origin,
    read_origin_again,
)
from seq2seq_dialog.train_arguments import parse

CARD = "---\nlicense: {}\n---\n# A card\n"
SAMPLE_DATA = {"corpus": SAMPLES}  # Apache-2.0


def card(license: str) -> dict[str, bytes]:
    return {"README.md": CARD.format(license).encode(), "config.json": b'{"model_type": "t5"}'}


def origin(*flags) -> dict:
    model = () if "--model_name_or_path" in flags else ("--new_model", "{model_type: t5}")
    return describe_origin(parse([*flags, *model, "--output_dir", "runs/x"]))


def license_of(base: dict, **config) -> str | None:
    config = {"data": "d.txt", "model_name_or_path": "ann/base"} | config
    return data_terms(config, base | SAMPLE_DATA).license


@pytest.mark.parametrize(
    ("told", "license"),
    [
        ("cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("CC-BY-NC-4.0", "cc-by-nc-4.0"),
        ("[mit, cc-by-nc-sa-4.0]", "cc-by-nc-sa-4.0"),  # the strictest
        ("gpl-3.0", "gpl-3.0"),
        ("llama3.1", "llama3.1"),
        ("my own", "other"),
        ("mit", "apache-2.0"),  # neither is stricter: that of the data
        ("unknown", None),
        ("", None),
        ("[", None),  # no YAML
    ],
)
def test_a_model_inherits_the_licence_on_the_card_of_its_base_model(hub, tmp_path, told, license):
    hub.add_repo("ann/base", card(told))
    about = origin("--model_name_or_path", "ann/base")
    assert license_of(about) == license
    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "README.md").write_bytes(card(told)["README.md"])
    local = origin("--model_name_or_path", str(folder))
    assert local["inherited"] == about["inherited"] | {"name": "downloaded"}
    assert local["from_hub"] == {}


def test_a_card_that_the_api_does_not_tell_of_is_read_and_where_there_is_none_none_is_claimed(
    hub, monkeypatch
):
    hub.add_repo("ann/base", card("cc-by-nc-4.0"))
    hub.fail(status=500, on="/api/models", times=99)
    assert license_of(origin("--model_name_or_path", "ann/base")) == "cc-by-nc-4.0"
    hub.faults.clear()
    hub.add_repo("ann/silent", {"config.json": b"{}"})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert license_of(origin("--model_name_or_path", "ann/base")) == "cc-by-nc-4.0"  # cached
    for name in ("ann/silent", "ann/missing"):
        about = origin("--model_name_or_path", name)
        assert about["inherited"] == {"name": name, "license": None, "is_model": True}
        assert license_of(about) is None
        assert license_of(about, license="mit") == "mit"  # who gives it answers for it
        dailydialog = {"data": None} | about  # what forbids holds all the same
        assert data_terms({"model_name_or_path": name}, dailydialog).license == "cc-by-nc-sa-4.0"
        assert license_of(about, do_train=False) is None


def test_terms_that_were_not_known_are_read_before_publishing(hub, monkeypatch):
    hub.add_repo("ann/base", card("cc-by-nc-4.0"))
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        about = origin("--model_name_or_path", "ann/base")
    assert license_of(about) is None
    config = {"model_name_or_path": "ann/base"}
    assert license_of(read_origin_again(config, about, hide_private=True)) == "cc-by-nc-4.0"
    del about["inherited"]  # as of a run that did not look
    assert license_of(read_origin_again(config, about, hide_private=True)) == "cc-by-nc-4.0"


def test_the_licence_of_data_is_that_of_their_cards(hub, tmp_path):
    hub.add_repo("ann/talk", card("cc-by-sa-4.0"), "dataset")
    assert origin("--dataset_name", "ann/talk")["dataset_license"] == "cc-by-sa-4.0"
    for name, license in (("free", "mit"), ("bound", "cc-by-nc-4.0"), ("silent", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_bytes(card(license)["README.md"])
    assert origin("--data", f"{tmp_path}/free")["dataset_license"] == "mit"
    assert origin("--dataset_name", f"{tmp_path}/bound")["dataset_license"] == "cc-by-nc-4.0"
    for names, license in ((("free", "bound"), "cc-by-nc-4.0"), (("free", "silent"), None)):
        sources = ", ".join(f"{{path: {tmp_path / name}}}" for name in names)
        assert origin("--data", f"[{sources}]")["dataset_license"] == license


def test_the_commit_of_the_base_model_is_that_of_the_cache_or_of_the_hub(hub, monkeypatch):
    repo = hub.add_repo("ann/base", card("mit"))
    first = repo.at("main").oid
    hub.add_repo("ann/talk", card("mit"), "dataset")
    flags = ("--model_name_or_path", "ann/base", "--dataset_name", "ann/talk")
    assert origin(*flags)["from_hub"] == {  # asked
        "model_name_or_path": first,
        "dataset_name": hub.commits("ann/talk", "dataset")[0].oid,
    }
    AutoConfig.from_pretrained("ann/base")
    repo.commit("main", repo.at("main").files, "later")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert origin(*flags)["from_hub"]["model_name_or_path"] == first  # what was loaded
    assert origin("--model_name_or_path", "bob/new")["from_hub"] == {"model_name_or_path": None}


def test_nothing_private_is_named_where_everybody_can_read_it(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    hub.add_repo("ann/hidden", card("mit"), private=True)
    hub.add_repo("ann/open", card("mit"), "dataset")
    config = {"model_name_or_path": "ann/hidden", "dataset_name": "ann/open"}
    about = origin("--model_name_or_path", "ann/hidden", "--dataset_name", "ann/open")
    assert set(about["from_hub"]) == set(config)
    shown = read_origin_again(config, about, hide_private=True)
    assert set(shown["from_hub"]) == {"dataset_name"} and shown["inherited"]["name"] == "hidden"
    assert read_origin_again(config, about, hide_private=False) == about


@pytest.mark.parametrize(
    ("license", "hint"),
    [("apache2", "apache-2.0"), ("cc-by-nc", "cc-by-nc-2.0|cc-by-nc-4.0"), ("MIT License", "")],
)
def test_an_identifier_that_the_hub_does_not_know_is_refused_with_the_nearest(license, hint):
    with pytest.raises(UsageError, match=f"license is '{license}'.*({hint}).*Give other"):
        check_terms(license, "en")


def test_no_card_is_needed(tmp_path):
    assert card_license(tmp_path) is None and card_license(tmp_path / "a b") is None
