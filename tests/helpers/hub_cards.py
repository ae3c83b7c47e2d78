"""What the Hub asks of the YAML at the top of a README.md: models, data sets and Spaces.

From the Hub's documentation (model, dataset and Spaces reference, licence and task lists) and from
the messages that people report. What only the Hub knows (do these data sets exist?) is not asked.
"""

import importlib.util
import json
import math
import re
from functools import cache
from pathlib import Path

import yaml


def words(text: str) -> set[str]:
    return set(text.split())


LICENSES = words(
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0"
    " bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause"
    " bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0"
    " cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0"
    " cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0"
    " cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1"
    " eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0"
    " odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr"
    " deepfloyd-if-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown"
    " other"
)
TASKS = words(
    "text-classification token-classification table-question-answering question-answering"
    " zero-shot-classification translation summarization feature-extraction text-generation"
    " fill-mask sentence-similarity text-to-speech text-to-audio automatic-speech-recognition"
    " audio-to-audio audio-classification audio-text-to-text voice-activity-detection"
    " depth-estimation image-classification object-detection image-segmentation text-to-image"
    " image-to-text image-to-image image-to-video unconditional-image-generation"
    " video-classification reinforcement-learning robotics tabular-classification"
    " tabular-regression tabular-to-text table-to-text multiple-choice text-ranking text-retrieval"
    " time-series-forecasting text-to-video image-text-to-text visual-question-answering"
    " document-question-answering zero-shot-image-classification graph-ml mask-generation"
    " zero-shot-object-detection text-to-3d image-to-3d image-feature-extraction"
    " video-text-to-text keypoint-detection visual-document-retrieval any-to-any other"
)
COLORS = ["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
SDKS = ["gradio", "streamlit", "docker", "static"]
REPO_ID = r"(?:[\w-]+/)?[\w.-]+"
BLOCK = re.compile(r"^\s*---(?:\r\n|\r|\n)(.*?)(?:\r\n|\r|\n)---[ \t]*(?:\r\n|\n|$)", re.DOTALL)


class Loader(yaml.SafeLoader):
    """Refuses a key given twice, as YAML does and PyYAML does not."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"duplicated mapping key {key!r}")
        return super().construct_mapping(node, deep)


@cache
def resource(name: str) -> list[str]:
    """A list of identifiers that comes with the datasets library."""
    package = Path(importlib.util.find_spec("datasets").origin).parent
    return list(json.loads((package / "utils" / "resources" / name).read_text(encoding="utf-8")))


def read_metadata(content: str):
    """(metadata, error): None and None where there is no YAML block."""
    if not (found := BLOCK.match(content.removeprefix("\ufeff"))):
        return None, None
    try:
        return yaml.load(found[1], Loader), None
    except yaml.YAMLError as e:
        return None, f"Invalid YAML: {e}"


class Check:
    """Collects what is wrong with metadata; `where` is a key's full name in the messages."""

    def __init__(self):
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def kind(self, value, where, kinds, name) -> bool:
        right = isinstance(value, kinds) and not (isinstance(value, bool) and kinds is not bool)
        if not right:
            self.errors.append(f'"{where}" must be {name}')
        return right

    def string(self, value, where, pattern=None, hint="") -> bool:
        if not self.kind(value, where, str, "a string"):
            return False
        if pattern and not re.fullmatch(pattern, value):
            self.errors.append(f'"{where}" with value "{value}" is not valid. {hint}'.strip())
            return False
        return True

    def strings(self, value, where, pattern=None, hint="", single=True) -> list[str]:
        """The strings of a list, or of a string alone where `single`."""
        if isinstance(value, str) and single:
            return [value] if self.string(value, where, pattern, hint) else []
        if not self.kind(value, where, list, "a string or an array" if single else "an array"):
            return []
        named = [(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return [v for v, name in named if self.string(v, name, pattern, hint)]

    def one_of(self, value, where, allowed) -> None:
        if self.string(value, where) and value not in allowed:
            self.errors.append(f'"{where}" must be one of [{", ".join(allowed)}]')

    def official(self, values, where, allowed) -> None:
        for value in values:
            if value not in allowed:
                names = ", ".join(sorted(allowed))
                self.warnings.append(f'The {where} "{value}" is not in the official list: {names}')

    def records(self, value, where, required=()) -> list[tuple[dict, str]]:
        """(mapping, its name) of a list of mappings."""
        if not self.kind(value, where, list, "an array"):
            return []
        return [
            (entry, f"{where}[{i}]")
            for i, entry in enumerate(value)
            if self.mapping(entry, f"{where}[{i}]", required)
        ]

    def mapping(self, value, where, required=()) -> bool:
        if not self.kind(value, where, dict, "an object"):
            return False
        for key in required:
            if value.get(key) is None:
                self.errors.append(f'"{where}.{key}" is required')
        return True

    # Keys of every card

    def license(self, value) -> None:
        for name in self.strings(value, "license"):
            if name not in LICENSES:
                self.errors.append(f'"license" must be one of [{", ".join(sorted(LICENSES))}]')

    def language(self, value) -> None:
        codes = resource("languages.json")
        for code in self.strings(value, "language"):
            if code not in codes and code != "multilingual":
                hint = "It must be an ISO 639-1, 639-2 or 639-3 code (two/three letters), or a"
                hint += ' special value like "code", "multilingual".'
                self.errors.append(f'"language" with value "{code}" is not valid. {hint}')

    def common(self, card) -> None:
        for key in ("license", "language"):
            if key in card:
                getattr(self, key)(card[key])
        for key in ("tags", "language_bcp47"):
            if key in card:
                self.strings(card[key], key, single=False)
        for key in ("license_name", "license_link", "pretty_name", "thumbnail"):
            if key in card:
                self.string(card[key], key)

    # Models

    def model(self, card) -> None:
        hints = {
            "datasets": "If possible, use a dataset id from https://hf.co/datasets.",
            "base_model": "Use a model id from https://hf.co/models.",
        }
        for key, hint in hints.items():
            if key in card:
                self.strings(card[key], key, REPO_ID, hint)
        if "metrics" in card:
            self.strings(card["metrics"], "metrics", single=False)
        if "base_model_relation" in card:
            relations = ["adapter", "finetune", "merge", "quantized"]
            self.one_of(card["base_model_relation"], "base_model_relation", relations)
        if "library_name" in card:
            self.string(card["library_name"], "library_name")
        if "pipeline_tag" in card and self.string(card["pipeline_tag"], "pipeline_tag"):
            self.official([card["pipeline_tag"]], "pipeline tag", TASKS)
        if "inference" in card and not isinstance(card["inference"], bool):
            self.mapping(card["inference"], "inference")
        for example, where in self.records(card.get("widget", []), "widget"):
            self.example(example, where)
        for model, where in self.records(card.get("model-index", []), "model-index", ("name",)):
            if model.get("results") is None:
                self.errors.append(f'"{where}.results" is required')
                continue
            for result, inner in self.records(model["results"], f"{where}.results"):
                self.result(result, inner)

    def example(self, example, where) -> None:
        if not {"text", "messages", "src", "source_sentence", "table"} & set(example):
            self.errors.append(f'"{where}" must contain an input, such as "text" or "messages"')
        for key in ("text", "example_title", "group", "src"):
            if key in example:
                self.string(example[key], f"{where}.{key}")
        for message, name in self.records(
            example.get("messages", []), f"{where}.messages", ("role", "content")
        ):
            self.one_of(
                message.get("role", "user"), f"{name}.role", ["user", "assistant", "system"]
            )
        output = example.get("output", {})
        if isinstance(output, list):
            self.records(output, f"{where}.output", ("label", "score"))
        elif self.mapping(output, f"{where}.output"):
            for key in {"text", "url"} & set(output):
                self.string(output[key], f"{where}.output.{key}")

    def result(self, result, where) -> None:
        for key, required in (("task", ("type",)), ("dataset", ("type", "name"))):
            if result.get(key) is None:
                self.errors.append(f'"{where}.{key}" is required')
            elif self.mapping(result[key], f"{where}.{key}", required):
                for name in ("type", "name", "config", "split", "revision"):
                    if result[key].get(name) is not None:
                        self.string(result[key][name], f"{where}.{key}.{name}")
        kind = (result.get("dataset") or {}) if isinstance(result.get("dataset"), dict) else {}
        if isinstance(kind.get("type"), str) and not re.fullmatch(REPO_ID, kind["type"]):
            name, pattern = f"{where}.dataset.type", r"/^(?:[\w-]+\/)?[\w-.]+$/"
            message = f'"{name}" with value "{kind["type"]}" fails to match the required pattern'
            self.errors.append(f"{message}: {pattern}")
        if result.get("metrics") is None:
            self.errors.append(f'"{where}.metrics" is required')
            return
        for metric, name in self.records(result["metrics"], f"{where}.metrics", ("type", "value")):
            value = metric.get("value")
            if isinstance(value, float) and not math.isfinite(value):
                self.errors.append(f'"{name}.value" must be a finite number')
            for key in ("type", "name", "config"):
                if metric.get(key) is not None:
                    self.string(metric[key], f"{name}.{key}")
        if "source" in result and self.mapping(result["source"], f"{where}.source", ("url",)):
            self.string(result["source"].get("url", ""), f"{where}.source.url")

    # Data sets

    def dataset(self, card) -> None:
        lists = ("task_categories", "task_ids", "size_categories", "source_datasets")
        for key in (*lists, "annotations_creators", "language_creators", "multilinguality"):
            if key in card:
                self.strings(card[key], key)
        if isinstance(tasks := card.get("task_categories"), list):
            self.official([t for t in tasks if isinstance(t, str)], "task_categories", TASKS)
        if isinstance(sizes := card.get("size_categories"), list):
            allowed = resource("size_categories.json")
            self.official([s for s in sizes if isinstance(s, str)], "size_categories", allowed)
        for config, where in self.records(card.get("configs", []), "configs", ("config_name",)):
            files = config.get("data_files", [])
            if isinstance(files, list) and not all(isinstance(entry, str) for entry in files):
                self.records(files, f"{where}.data_files", ("split", "path"))
        info = card.get("dataset_info", [])
        infos = [info] if isinstance(info, dict) else info
        for one, where in self.records(infos, "dataset_info"):
            self.records(one.get("features", []), f"{where}.features", ("name",))
            for split, name in self.records(one.get("splits", []), f"{where}.splits", ("name",)):
                for key in ("num_bytes", "num_examples"):
                    if key in split:
                        self.kind(split[key], f"{name}.{key}", (int, float), "a number")

    # Spaces

    def space(self, card) -> None:
        if "sdk" not in card:
            self.errors.append('"sdk" is required')
        for key, allowed in (("sdk", SDKS), ("colorFrom", COLORS), ("colorTo", COLORS)):
            if key in card:
                self.one_of(card[key], key, allowed)
        for key in ("title", "emoji", "app_file", "base_path", "suggested_hardware"):
            if key in card:
                self.string(card[key], key)
        for key in ("models", "datasets"):
            if key in card:
                self.strings(card[key], key, REPO_ID, single=False)
        for key in ("sdk_version", "python_version"):
            if key in card and not isinstance(card[key], float):
                self.string(str(card[key]), key, r"\d+(\.\d+)*(\w+\d+)?")
        for key in ("pinned", "fullWidth", "disable_embedding", "hf_oauth"):
            if key in card:
                self.kind(card[key], key, bool, "a boolean")
        if "emoji" in card and isinstance(card["emoji"], str) and card["emoji"].isascii():
            self.errors.append('"emoji" must be an emoji')
        description = card.get("short_description", "")
        if self.string(description, "short_description") and len(description) > 60:
            length = "length must be less than or equal to 60 characters long"
            self.errors.append(f'"short_description" {length}')


def check_card(content: str, repo_type: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) of a README.md of a model, dataset or space."""
    card, error = read_metadata(content)
    check = Check()
    if error:
        return [error], []
    if not card:
        check.warnings.append("empty or missing yaml metadata in repo card")
        card = {}
    if check.kind(card, "metadata", dict, "an object"):
        check.common(card)
        getattr(check, repo_type)(card)
    return check.errors, check.warnings


LINES = {"5": "5", "4.57": "4.57", "5 and 4.57": "both"}


def code_blocks(text: str) -> list[tuple[str, str]]:
    """The Python of a card: (the line of transformers that it is for, code); "5", "4.57" or "both".

    Each names its line in a comment at its top: `# transformers 5 and 4.57`.
    """
    blocks = re.findall(r"^```python\n# transformers (.+)\n([\s\S]*?)^```$", text, re.MULTILINE)
    assert len(blocks) == text.count("```python\n")
    return [(LINES[line], code) for line, code in blocks]
