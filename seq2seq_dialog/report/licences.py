"""Which data a model was trained on, and by which licence: what the model inherits from them."""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import yaml
from huggingface_hub import HfApi, hf_hub_download, metadata_load, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HTTPError, RepositoryNotFoundError

from ..command_line import expand_path
from ..data.known_corpora import DAILYDIALOG, SAMPLES
from ..data.mixture import parse_sources
from ..errors import UsageError, nearest
from ..run_folder import read_mapping
from ..settings import DataArguments, Settings
from ..shipped import find_model
from ..strict_yaml import read_yaml

DAILYDIALOG_ID = "li2017dailydialog/daily_dialog"  # its authors' own, on the Hub
LICENSES = {DAILYDIALOG: "cc-by-nc-sa-4.0", SAMPLES: "apache-2.0"}
# The identifiers of https://huggingface.co/docs/hub/repositories-licenses: those that ask for
# credit at most, and those that may demand more.
FOR_CREDIT = """
    afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0
    etalab-2.0 isc mit ncsa odc-by openmdw-1.0 pddl postgresql unlicense wtfpl zlib
"""
WITH_CONDITIONS = """
    agpl-3.0 apple-amlr apple-ascl bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m cc cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0
    cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license epl-1.0 epl-2.0 eupl-1.1 eupl-1.2
    fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
    lppl-1.3c mpl-2.0 ms-pl odbl ofl-1.1 openrail openrail++ osl-3.0 other unknown
"""
PERMISSIVE = frozenset(FOR_CREDIT.split())
HUB_LICENSES = PERMISSIVE | frozenset(WITH_CONDITIONS.split())
# What there is to say against reading a card: no network, no such repository or file, no YAML.
UNREADABLE = (HTTPError, OSError, ValueError, yaml.YAMLError)
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z]{2})?")


@dataclass(frozen=True)
class DataTerms:
    """The data of a model and their licence; None is what is not known or not there."""

    name: str  # of the data, for people
    id: str | None  # of the data on the Hub
    license: str | None  # of the model
    data_license: str | None
    origin: str | None  # who says so: `given` by the publisher, `known` here, the data's `card`
    inherited: dict | None  # what `inherited_terms` tells of the model it was begun from


def data_terms(config: Mapping, environment: Mapping, license: str | None = None) -> DataTerms:
    """Tell what a model was trained on, and by which licence.

    A model takes the licence of its training data. If it was begun from another model, the licence
    of that one counts, too, and the stricter one holds; where it is not known, none is claimed that
    would allow more. A run that only evaluates a model gives it no licence. A `license` that is
    given comes before what the settings say; for DailyDialog, another than its own is refused.
    """
    data = config.get("data") or config.get("dataset_name")
    corpus = environment.get("corpus") if data else DAILYDIALOG
    dataset = config["dataset_name"] if "dataset_name" in environment.get("from_hub", {}) else None
    if corpus == DAILYDIALOG:
        dataset = dataset or DAILYDIALOG_ID
    name = corpus or dataset or data_name(data)
    trained = config.get("do_train", True)
    given = (license or config.get("license") or "").strip().lower() or None
    card = str(environment.get("dataset_license") or "").lower()
    known = LICENSES.get(corpus) if trained else None
    if known and corpus == DAILYDIALOG and given not in (None, known):
        raise UsageError(
            f"license is {given!r}, but these are dialogues of DailyDialog, which are "
            f"{known.upper()}: no commercial use, share alike. A model trained on them inherits "
            f"that. Leave the licence out, or give {known}."
        )
    sources = {
        "given": given if given != known else None,
        "known": known,
        "card": card if trained and card in HUB_LICENSES else None,
    }
    origin = next((source for source, license in sources.items() if license), None)
    data_license = model_license = sources.get(origin)
    inherited = environment.get("inherited")
    if inherited and inherited["license"] == data_license and not inherited.get("is_model"):
        inherited = None
    if inherited and not (trained or given):
        model_license = inherited["license"]
    elif inherited and not (given and inherited["license"] is None):
        model_license = max(data_license, inherited["license"], key=_strictness)
    return DataTerms(name, dataset, model_license, data_license, origin, inherited)


def data_name(data: str | list[dict]) -> str:
    """Name the data of a run: the last part of the path, or of the path of each source."""
    if isinstance(data, list):
        return ", ".join(source.get("name") or data_name(source["path"]) for source in data)
    return PureWindowsPath(str(data)).name


def _strictness(license: str | None) -> tuple:
    """Order licences: permissive, not known, with conditions; these by what they forbid."""
    terms = (license or "").split("-")
    conditions = 0 if license in PERMISSIVE else 1 if license is None else 2
    return "nc" in terms, "nd" in terms, "sa" in terms, conditions


def inherited_terms(name: str | Path, revision: str | None = None) -> dict:
    """Give the terms of a model that bind what is begun from it: a run, a folder, a repository.

    Returns `license`, None if it is not known, and `name`: of the data that the run was trained on,
    or with `is_model` of the model whose card says so.
    """
    folder = Path(name)
    model = {"name": folder.resolve().name if folder.exists() else str(name), "is_model": True}
    if not all((folder / file).is_file() for file in ("config.yaml", "metrics.json")):
        return model | {"license": card_license(name, revision=revision)}
    config = read_yaml(folder / "config.yaml")
    terms = data_terms(config, read_mapping(folder / "environment.json"))
    if terms.inherited and terms.license == terms.inherited["license"]:
        return terms.inherited
    origin = {"name": terms.name} if config.get("do_train", True) else model
    return origin | {"license": terms.license}


def card_license(
    name: str | Path, repo_type: str = "model", revision: str | None = None
) -> str | None:
    """Read the licence on the card of a folder, or of a repository on the Hub or in its cache.

    Of several the strictest counts, and one that the Hub does not know is `other`.
    """
    with suppress(*UNREADABLE):
        path = Path(name) / "README.md"
        if not Path(name).exists():
            path = hf_hub_download(str(name), "README.md", repo_type=repo_type, revision=revision)
        on_card = (metadata_load(path) or {}).get("license") or "unknown"
        on_card = on_card if isinstance(on_card, list) else [on_card]
        licenses = [str(each).lower() for each in on_card]
        licenses = [each if each in HUB_LICENSES else "other" for each in licenses]
        return max((None if each == "unknown" else each for each in licenses), key=_strictness)
    return None


def check_terms(license: str | None, language: str) -> None:
    """Refuse a licence or language that the Hub would not know, before long work."""
    name = str(license).strip().lower()
    if license is not None and name not in HUB_LICENSES:
        raise UsageError(
            f"license is {license!r}; it must be a name of "
            "https://huggingface.co/docs/hub/repositories-licenses, such as cc-by-4.0 or mit."
            f"{nearest(name, HUB_LICENSES)} Give other for a licence that is not there."
        )
    if not LANGUAGE.fullmatch(str(language)):
        raise UsageError(
            f"language is {language!r}; it must be a code of ISO 639: en, de, pt-BR, and in YAML "
            '"no" with quotation marks.'
        )


def describe_origin(settings: Settings) -> dict:
    """Describe what a run is made from: commits and terms on the Hub, the run it builds on."""
    data, args = settings.data, settings.model
    model, tokenizer = args.model_name_or_path, args.tokenizer_name_or_path
    branch = args.model_revision
    sources = {
        "dataset_name": (data.dataset_name, data.dataset_revision, "dataset", "README.md"),
        "model_name_or_path": (model, branch, "model", "config.json"),
        "tokenizer_name_or_path": (tokenizer, branch, "model", "tokenizer_config.json"),
    }
    about: dict = {"from_hub": {}}
    if not settings.main_process:  # who writes it down
        return about
    about["dataset_license"] = license_of_data(data)
    if model is not None:
        about["inherited"] = inherited_terms(find_model(model), branch)
    for key, (name, revision, repo_type, file) in sources.items():
        if name is not None and not Path(find_model(name)).exists():
            about["from_hub"][key] = _commit_on_hub(name, revision, repo_type, file)
    return about


def license_of_data(data: DataArguments) -> str | None:
    """Read the licence on the cards of the data, of several the strictest."""
    if data.dataset_name is not None:
        return card_license(data.dataset_name, "dataset", data.dataset_revision)
    sources = parse_sources(data.data)
    paths = [data.data] if sources is None else [source.path for source in sources]
    licenses = [card_license(expand_path(path)) for path in paths if path is not None]
    return max(licenses, key=_strictness, default=None)


def _commit_on_hub(name: str, revision: str | None, repo_type: str, file: str) -> str | None:
    """Find the commit of a repository that `file` was just loaded from, None if it is not known."""
    cached = try_to_load_from_cache(name, file, revision=revision, repo_type=repo_type)
    if isinstance(cached, str):
        return Path(cached).parent.name
    with suppress(*UNREADABLE):
        return HfApi().repo_info(name, revision=revision, repo_type=repo_type).sha
    return None


def read_origin_again(config: Mapping, environment: Mapping, hide_private: bool) -> dict:
    """Ask the Hub once more for terms that a run could not read.

    With `hide_private`, what not everybody can see there is treated as if it had a place on this
    machine: what is published links nothing to it.
    """
    from_hub, inherited = environment.get("from_hub", {}), environment.get("inherited")
    base = "model_name_or_path"
    if base in from_hub and not (inherited and inherited["license"]):
        inherited = inherited_terms(config[base], from_hub[base])
    if hide_private:
        from_hub = {
            key: commit
            for key, commit in from_hub.items()
            if _is_public(config[key], "dataset" if key == "dataset_name" else "model")
        }
        if inherited and base not in from_hub:
            inherited = inherited | {"name": data_name(inherited["name"])}
    return {**environment, "from_hub": from_hub, "inherited": inherited}


def _is_public(name: str, repo_type: str) -> bool:
    """Tell whether somebody without a token sees a repository, as far as the Hub can be asked."""
    try:
        HfApi(token=False).repo_info(name, repo_type=repo_type)
    except RepositoryNotFoundError as error:
        return isinstance(error, GatedRepoError)
    except UNREADABLE:
        pass
    return True
