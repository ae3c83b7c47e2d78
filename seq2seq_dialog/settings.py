"""Settings of a run: dataclasses whose fields have help, bounds and choices beside them.

`train_arguments.parse` makes `Settings` of a config file and flags, and has them checked. They are
not changed afterwards; what only the data can tell gives new ones (`Settings.with_training`). A
trainer alone fills in what it has to try out (`tokens_per_batch: auto`).
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from . import strict_yaml
from .errors import UsageError, nearest
from .evaluation.text import main_language
from .inherited_settings import INHERITED, INHERITED_MARKS
from .method_settings import (
    AdversarialArguments,
    LoraArguments,
    ObjectiveArguments,
    PreferenceArguments,
    SearchArguments,
)
from .portable.options import CRITERIA, OPTION_BOUNDS, Bounds
from .setting_fields import Group, Mark, setting
from .training_settings import SCALED, T5_LIKE, DialogueTrainingArguments

# Settings of ours that are mappings, as text in YAML.
OUR_MAPPINGS = ("columns", "new_model", "objectives", "discriminator", "rerank")


@dataclass
class DataArguments(Group):
    """Where the dialogues come from and how they become examples."""

    _argument_group_name = "data"

    data: Annotated[str | None, Mark.PATH] = setting(
        None,
        "Dialogues: a file, folder or zip of text (a dialogue a line, __eou__ after each "
        "utterance), a table, subtitles, a corpus, or the export of a chat (WhatsApp, Telegram and "
        "others), known by its content. Or several, [{path: ..., weight: 2.0}, ...]: an epoch has "
        "each dialogue weight times. Nothing: download DailyDialog from its authors.",
    )
    dataset_name: Annotated[str | None, Mark.PATH] = setting(
        None,
        "Or a data set on the Hub, user/name: rows of context and response as publish-data makes "
        "them, or whole dialogues as lists of utterances or of messages.",
    )
    dataset_revision: str | None = setting(
        None, "Branch, tag or commit of dataset_name; main by default."
    )
    columns: str | None = setting(
        None,
        "Names of columns that are not the usual ones, a mapping such as {text: body, speaker: "
        "author}: of dialogue, context, response, rejected, text, speaker, conversation, time.",
    )
    respond_as: str | None = setting(
        None,
        "Whose replies to learn: a name, assistant, or everybody. By default the assistant's (the "
        "bot's, the agent's) where messages have roles, else everybody's.",
    )
    max_gap: Annotated[float | None, Bounds(0)] = setting(
        None,
        "Hours of silence after which a chat is another dialogue; by default 6, in subtitles 20 "
        "seconds.",
    )
    anonymize: bool = setting(
        False,
        "Put [name], [email] and [phone] for the names of speakers, e-mail addresses and phone "
        "numbers. Other names, addresses and accounts stay.",
    )
    language: Annotated[str, Mark.FREE] = setting(
        "en",
        "Language of the dialogues: en, de, zh. The metrics go by its words, and the model card "
        "names it.",
    )
    license: Annotated[str | None, Mark.FREE] = setting(
        None,
        "Licence of the dialogues, which the model inherits, as the Hub names it: cc-by-4.0, "
        "apache-2.0. That of DailyDialog is known.",
    )
    detokenize: bool | None = setting(
        None,
        'Write natural text from spaced tokens: "don \' t you ?" to "don\'t you?". By default of '
        "English alone.",
    )
    exchange_sides: bool = setting(
        False,
        "Learn to guess the last turn from its reply: the reverse_model of other runs, which "
        "chooses replies that belong to their context.",
    )
    drop_overlap: bool = setting(
        False, "Leave out of train what stands in validation or test, or overlaps with it."
    )
    multireference: Annotated[str | None, Mark.PATH] = setting(
        None,
        "multireftest.json of Gupta et al. (2019): also score the replies to DailyDialog's "
        "official test split against five references.",
    )
    max_source_length: Annotated[int, Bounds(8)] = setting(
        512, "Greatest context in tokens; older turns are left out, whole."
    )
    max_target_length: Annotated[int, Bounds(2)] = setting(128, "Greatest reply in tokens.")
    streaming: bool = setting(
        False,
        "Read training pairs while training goes on, instead of preparing all of them on disk "
        "first; needs max_steps. They are shuffled 20,000 at a time. dataloader_num_workers 1 "
        "tokenises ahead.",
    )
    max_train_samples: Annotated[int | None, Bounds(1)] = setting(
        None, "Use only the first N training pairs (trials)."
    )
    max_eval_samples: Annotated[int | None, Bounds(1)] = setting(
        None, "Use only the first N validation and N test pairs (trials)."
    )
    preprocessing_num_workers: Annotated[int | None, Bounds(1), Mark.FREE] = setting(
        None, "Processes that tokenise."
    )
    data_cache: Annotated[str | None, Mark.FREE, Mark.PRIVATE] = setting(
        None, "Folder for prepared data and what evaluation writes; by default caches in HF_HOME."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.detokenize is None:
            self.detokenize = main_language(self.language) == "en"

    def column_names(self) -> dict[str, str]:
        """Return what `columns` says: names of columns, by what they are for."""
        example = "{text: body, speaker: author}"
        text = self.columns or "{}"
        names = strict_yaml.load_mapping("columns", text, example)
        kinds = ["dialogue", "context", "response", "rejected", "text", "speaker"]
        kinds += ["conversation", "time"]
        for kind, name in names.items():
            if kind not in kinds or not isinstance(name, str):
                raise UsageError(
                    f"columns has {kind!r}: {name!r}; it maps {', '.join(kinds)} to names of "
                    f"columns, for example {example}.{nearest(str(kind), kinds)}"
                )
        return names

    def reading_key(self) -> str:
        """Return the settings by which tables and chats are read, as one text."""
        return f"{self.columns} {self.respond_as} {self.max_gap} {self.anonymize}"


@dataclass
class ModelArguments(Group):
    """A checkpoint to fine-tune, or a new model from sizes."""

    _argument_group_name = "model"

    model_name_or_path: Annotated[str | None, Mark.PATH] = setting(
        None,
        "An AutoModelForSeq2SeqLM checkpoint to fine-tune: a name on the Hub, a folder, or "
        "starter, the small model of everyday English that ships here.",
    )
    new_model: str | None = setting(
        None, "Or a new model: its config, in YAML a mapping with model_type and sizes."
    )
    tokenizer_name_or_path: Annotated[str | None, Mark.PATH] = setting(
        None,
        "A tokenizer (Hub name or folder). Default: the checkpoint's own; for a new model, a "
        "sentencepiece tokenizer trained on the training utterances.",
    )
    vocab_size: Annotated[int, Bounds(64)] = setting(8000, "Pieces of a tokenizer that is trained.")
    model_revision: str = setting("main", "Branch, tag or commit of the checkpoint.")
    trust_remote_code: bool = setting(False, "Run model code that comes with the checkpoint.")

    def new_model_sizes(self) -> dict:
        """Return what `new_model` says: a model_type, and values of its config."""
        example = "{model_type: t5, d_model: 256, num_layers: 4}"
        sizes = strict_yaml.load_mapping("new_model", self.new_model, example)
        if not isinstance(sizes.get("model_type"), str):
            raise UsageError(
                f"new_model is {self.new_model!r}; it must have a known model_type, for example "
                f"{example}."
            )
        return sizes


@dataclass
class DecodingArguments(Group):
    """How replies are decoded, in the evaluation here and by default wherever the model is used."""

    _argument_group_name = "decoding"

    max_new_tokens: Annotated[int, OPTION_BOUNDS["max_new_tokens"]] = setting(
        128, "Greatest reply in tokens."
    )
    num_beams: Annotated[int, OPTION_BOUNDS["num_beams"]] = setting(
        1, "Beams; 1 is greedy (or sampling)."
    )
    do_sample: bool = setting(False, "Sample instead of the likeliest.")
    temperature: Annotated[float, OPTION_BOUNDS["temperature"]] = setting(
        1.0, "Sampling temperature."
    )
    top_p: Annotated[float, OPTION_BOUNDS["top_p"]] = setting(
        1.0, "Nucleus of the probability to sample from."
    )
    top_k: Annotated[int, OPTION_BOUNDS["top_k"]] = setting(
        0, "Likeliest tokens to sample from; 0 means all."
    )
    no_repeat_ngram_size: Annotated[int, OPTION_BOUNDS["no_repeat_ngram_size"]] = setting(
        0, "No n-gram of this size twice in a reply; 0 allows all."
    )
    repetition_penalty: Annotated[float, OPTION_BOUNDS["repetition_penalty"]] = setting(
        1.0, "Above 1 repeats less."
    )
    length_penalty: Annotated[float, OPTION_BOUNDS["length_penalty"]] = setting(
        1.0, "Exponent of the length in beam scores; above 1 favours long."
    )
    candidates: Annotated[int, OPTION_BOUNDS["candidates"]] = setting(
        1,
        "Replies that are decoded for each context, by beams, or sampled without beams; rerank "
        "chooses one.",
    )
    rerank: str | None = setting(
        None,
        "What the reply is chosen by: weights of criteria, a mapping such as {likelihood: 1, "
        f"context_free: 0.5}}; {{likelihood: 1}} by default. Criteria: {', '.join(CRITERIA)}.",
    )
    reverse_model: Annotated[str | None, Mark.PATH] = setting(
        None,
        "For the criterion reverse: a model that was trained with exchange_sides, a run folder or "
        "a name on the Hub.",
    )
    guidance_weight: Annotated[float, OPTION_BOUNDS["guidance_weight"]] = setting(
        0.0,
        "Guidance against what fits every context: adds this times log p(token | context) - "
        "log p(token | no context) to scores, but favours no token that was said before.",
    )
    guidance_tokens: Annotated[int, OPTION_BOUNDS["guidance_tokens"]] = setting(
        0, "First tokens of a reply that are guided; 0 means all."
    )

    def rerank_weights(self) -> dict[str, float]:
        """Return what `rerank` says: weights by the names of criteria; none where it is not set."""
        example = "{likelihood: 1, context_free: 0.5}"
        return strict_yaml.load_mapping("rerank", self.rerank or "{}", example)


@dataclass(frozen=True)
class Settings:
    """All settings of a run, by group."""

    data: DataArguments
    model: ModelArguments
    decoding: DecodingArguments
    objectives: ObjectiveArguments
    adversarial: AdversarialArguments
    preferences: PreferenceArguments
    lora: LoraArguments
    search: SearchArguments
    training: DialogueTrainingArguments

    @property
    def run_dir(self) -> Path:
        """The run folder; of a search and of several seeds, the folder of their runs."""
        return Path(self.training.output_dir)

    @property
    def main_process(self) -> bool:
        """Whether this is the process that prints, writes and publishes."""
        return self.training.process_index == 0

    def trains(self, method: Group) -> bool:
        """Whether a method is on and trains; a model that is only evaluated needs none."""
        return self.training.do_train and method.is_on

    @property
    def data_to_read(self) -> DataArguments:
        """The settings that rows are read by.

        Where the data has the rejected replies of preferences, `columns` names `rejected`: readers
        look for that key.
        """
        if not self.trains(self.preferences) or self.preferences.negatives:
            return self.data
        columns = {"rejected": "rejected"} | self.data.column_names()
        return dataclasses.replace(self.data, columns=strict_yaml.to_json("columns", columns))

    def with_training(self, **changes: Any) -> Settings:
        """Return these settings with other values in `training`; `given` stays as it is."""
        training = copy.copy(self.training)
        for name, value in changes.items():
            setattr(training, name, value)
        return dataclasses.replace(self, training=training)

    def with_optimizer(self) -> Settings:
        """Return these settings with optimizer and rate in `given`, by default the model's."""
        training, optim = copy.copy(self.training), self.training.given["optim"]
        if optim is None:
            new = self.model.new_model and self.model.new_model_sizes()["model_type"]
            optim = SCALED if new in T5_LIKE else "adamw_torch_fused"
            training._choose_optimizer(optim)
        if self.preferences.is_on and training.given["learning_rate"] is None:
            training.learning_rate /= 10
        training.given = training.given | {"optim": optim, "learning_rate": training.learning_rate}
        return dataclasses.replace(self, training=training)

    def without_evaluation(self) -> Settings:
        """Return these settings for data without validation pairs: the last checkpoint is kept."""
        saved = self.training.save_strategy
        return self.with_training(
            eval_strategy=type(self.training.eval_strategy)("no"),
            save_strategy=saved if saved != "best" else type(saved)("epoch"),
            load_best_model_at_end=False,
            early_stopping_patience=None,
        )

    def as_config(self) -> dict:
        """Return what was given as a config that makes the run again.

        Of the inherited settings it has those that --help shows or that are not the default.
        """
        config, once = {}, marked(Mark.ONCE)
        for group in vars(self).values():
            if not getattr(group, "is_on", True):
                continue
            values = self.training.given if group is self.training else vars(group)
            for f in dataclasses.fields(group):
                value = values.get(f.name)
                shown = f.name in INHERITED or f.name in type(group).__annotations__
                if f.name in once:
                    continue
                if value not in (None, []) and (shown or value != f.default):
                    config[f.name] = value
        for name in (*OUR_MAPPINGS, "lr_scheduler_kwargs", "data"):
            value = config.get(name)
            if isinstance(value, str) and (name != "data" or value.lstrip().startswith("[")):
                config[name] = strict_yaml.load(value)
        return config


GROUPS = tuple(get_type_hints(Settings).values())


def marked(mark: Mark) -> set[str]:
    """Name the settings that have a mark."""
    return INHERITED_MARKS.get(mark.name, set()) | {
        name
        for group in GROUPS
        for name, hint in get_type_hints(group, include_extras=True).items()
        if mark in getattr(hint, "__metadata__", ())
    }
