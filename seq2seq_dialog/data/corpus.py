"""The dialogues of a run: their rows by split, and what stands in more than one of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from datasets import Dataset, DatasetDict
from rich.console import Console

from ..errors import UsageError
from ..evaluation.protocols import read_references
from ..settings import DataArguments
from . import overlap
from .features import encode_rows
from .mixture import parse_sources
from .prepared import map_rows
from .rows import load_rows
from .streaming import Stream

WARN_UNKNOWN = 0.01  # the share of unknown tokens from which there is a warning
WARN_TEST = 50  # test pairs below which there is one
WARN_LEFT = 0.1  # the share of training pairs that drop_overlap leaves, below which there is one

OTHER_MODEL = (
    "Take a checkpoint that knows the language (google/mt5-small, google/byt5-small), or a new "
    "model with a tokenizer of its own."
)


@dataclass(frozen=True)
class Corpus:
    """The dialogues of a run."""

    rows: DatasetDict  # (context, response) by split; of a stream's training rows the first ones
    problems: dict  # what is odd in the text, see `load_rows`
    stream: Stream | None = None
    references: list | None = None  # several of each evaluated pair, by `multireference`
    audit: dict | None = None  # see `overlap.audit`; None where nothing is known of overlap

    @property
    def evaluated_split(self) -> str:
        """The split that a trained model replies to."""
        return "test" if "test" in self.rows else "validation"

    @property
    def pairs(self) -> dict[str, int]:
        """The number of pairs by split; how many a stream has is not known."""
        pairs = {name: len(split) for name, split in self.rows.items()}
        if self.stream is not None:
            del pairs["train"]
        return pairs

    @property
    def clean(self) -> np.ndarray | None:
        """Which evaluated pairs are clean, by `overlap.DEFINITIONS`; None if not known."""
        return self.audit["clean"][self.evaluated_split] if self.audit else None

    @property
    def overlap_counts(self) -> dict | None:
        """What the evaluation keeps of the audit of its split."""
        if self.audit is None:
            return None
        counts = self.audit["splits"][self.evaluated_split]
        keys = {"1": "one_turn", "3": "three_turns", "all": "full_context"}
        in_train = {short: counts["pairs_in_train"][key] for short, key in keys.items()}
        sizes = {name: counts[name] for name in ("pairs", "clean_pairs")}
        return {"pairs_in_train": in_train, **sizes}


def read_corpus(args: DataArguments) -> Corpus:
    """Read the dialogues that the settings name."""
    if args.streaming:
        stream = Stream(args)
        corpus = Corpus(stream.rows, stream.problems, stream)
    else:
        corpus = Corpus(*load_rows(args))
    if args.multireference is None:
        return corpus
    if corpus.evaluated_split not in corpus.rows:
        raise UsageError("multireference needs a test split to score; the data has train alone.")
    references = read_references(args.multireference, corpus.rows[corpus.evaluated_split])
    return replace(corpus, references=references)


def audit_corpus(corpus: Corpus, args: DataArguments, console: Console) -> Corpus:
    """Look for what stands in train and in another split, and print what a reader must know.

    With `drop_overlap`, the training pairs in question are left out.
    """
    print_reading(corpus.problems, console)
    if corpus.stream is None:
        audit, rows = overlap.audit(corpus.rows), corpus.rows
        warning = overlap.warning(audit)
        if warning:
            console.print(warning, style="yellow")
        if args.drop_overlap:
            rows = overlap.without_overlap(rows, audit)
        for doubt in doubts(audit["splits"], len(rows["train"]), args):
            console.print(f"Warning: {doubt}", style="yellow")
        corpus = replace(corpus, rows=rows, audit=audit)
    else:
        console.print(
            "Training pairs are streamed. Baselines, unigram model and a new tokenizer come from "
            f"the first {len(corpus.rows['train']):,}; what stands in train and test is not looked "
            "for."
        )
    counts = ", ".join(f"{name} {count:,}" for name, count in corpus.pairs.items())
    console.print(f"Pairs of context and response: {counts}")
    return corpus


def exchange_corpus_sides(corpus: Corpus, args: DataArguments) -> Corpus:
    """Turn each pair round with `exchange_sides`: to learn what came before a reply."""
    if not args.exchange_sides:
        return corpus
    rows = DatasetDict({name: exchange_sides(split) for name, split in corpus.rows.items()})
    return replace(corpus, rows=rows)


def exchange_sides(rows: Dataset) -> Dataset:
    """Make of each pair (context, response) the pair (response, last turn of the context)."""
    return map_rows(
        rows,
        lambda batch: {
            "context": [[response] for response in batch["response"]],
            "response": [context[-1] for context in batch["context"]],
        },
        desc="Exchanging sides",
    )


def doubts(splits: dict, left: int, args: DataArguments) -> Iterator[str]:
    """Say in words why figures of this data will mean little: there is too little of something.

    `splits` are counts of `overlap.audit`, `left` the training pairs after `drop_overlap`.
    """
    more = "Give more dialogues, or a folder with train/, validation/ and test/."
    counts, train = splits.get("test"), splits["train"]
    if counts is None:
        instead = "validation stands in for it" if "validation" in splits else "no reply is scored"
        yield (
            f"there is no test split: {instead}. Of data without splits a tenth of the dialogues "
            f"is meant for it, and train has {train['dialogues']:,}. {more}"
        )
    elif counts["pairs"] < WARN_TEST and args.max_eval_samples is None:
        yield f"test has only {counts['pairs']:,} pairs, of which figures say little. {more}"
    evaluated = counts or splits.get("validation")
    if evaluated is not None and not evaluated["clean_pairs"] and not args.drop_overlap:
        yield (
            f"none of the {evaluated['pairs']:,} evaluated pairs is clean: each stands in train, "
            "or much of its dialogue does, so that figures show memory. Give other dialogues to "
            "evaluate on, or set drop_overlap."
        )
    if left < WARN_LEFT * train["pairs"]:
        yield (
            f"drop_overlap leaves {left:,} of {train['pairs']:,} training pairs: the others are "
            "copies, or stand in validation or test, or overlap with them. Too little may be left "
            "to learn from: give dialogues that repeat less, or keep the overlap."
        )


def print_reading(problems: dict, console: Console) -> None:
    """Print as what the files of tables and chats were read, and what was left out of them."""
    for name, counts in problems.items():
        if "read_as" not in counts:
            continue
        summary = f"{name}: {counts['read_as']}" if len(problems) > 1 else counts["read_as"]
        summary += ": " + ", ".join(
            f"{counts[kind]:,} {kind}" for kind in ("dialogues", "utterances", "pairs")
        )
        odd = ", ".join(
            f"{kind.replace('_', ' ')} {problem['count']:,}"
            for kind, problem in counts.items()
            if isinstance(problem, dict)
        )
        summary += f"; {odd}" if odd else ""
        others = counts.get("passed_over", [])
        if others:
            more = f" and {len(others) - 5} more" if len(others) > 5 else ""
            summary += f". Not read: {', '.join(others[:5])}{more}"
        console.print(f"Read as: {summary}")


def encode_corpus(
    corpus: Corpus, tokenizer, args: DataArguments, console: Console
) -> tuple[dict[str, Dataset], dict]:
    """Encode the rows of each split; count and print what is lost by it.

    Returns:
        The features by split; and, by split, `cut`: how many `contexts`, `turns` of them and
        `replies` the length limits cut, and `unknown`: the share of tokens in `contexts` and in
        `replies` that stand for characters that the tokenizer does not know.
    """
    features, cuts, unknown = {}, {}, {}
    for name, rows in corpus.rows.items():
        features[name] = encode_rows(rows, tokenizer, args)
        columns = features[name].with_format("numpy")
        turns, replies = columns["turns_cut"][:], columns["target_cut"][:]
        counts = ((turns > 0).sum(), turns.sum(), replies.sum())
        cuts[name] = dict(zip(("contexts", "turns", "replies"), map(int, counts), strict=True))
        console.print(
            f"{name}: {cuts[name]['contexts']:,} contexts cut to {args.max_source_length} tokens, "
            f"{cuts[name]['replies']:,} replies to {args.max_target_length}"
        )
        unknown[name] = {
            text: int(columns[f"{side}_unknown"][:].sum()) / int(columns[f"{side}_length"][:].sum())
            for text, side in (("contexts", "source"), ("replies", "target"))
        }
        if max(unknown[name].values()) >= WARN_UNKNOWN:
            console.print(
                f"Warning: the tokenizer does not know the characters of "
                f"{100 * unknown[name]['contexts']:.1f} % of the tokens of contexts and "
                f"{100 * unknown[name]['replies']:.1f} % of replies in {name}: they are "
                f"{tokenizer.unk_token}, which a model can neither read nor write. {OTHER_MODEL}",
                style="yellow",
            )
    return features, {"cut": cuts, "unknown": unknown}


def report_sources(features: Dataset, args: DataArguments, console: Console) -> dict:
    """Count what each of several sources gives to training, and print it.

    Returns:
        `sources`, nothing where the data has one. By name of the source: `weight`; `dialogues`,
        `pairs` and `tokens` (of contexts and replies) that it has; `share` of the tokens of an
        epoch, as drawn by weight. Of a stream, all this is of its first pairs.
    """
    sources = parse_sources(args.data)
    if sources is None:
        return {}
    numbers = features.with_format("numpy")
    turns, tokens = numbers["turn"][:], numbers["source_length"][:] + numbers["target_length"][:]
    names = np.asarray(features["source"][:])
    counts_by_source = {}
    for source in sources:
        is_of_source = names == source.name  # (examples,)
        counts_by_source[source.name] = {
            "weight": source.weight,
            "dialogues": int((turns[is_of_source] == 1).sum()),
            "pairs": int(is_of_source.sum()),
            "tokens": int(tokens[is_of_source].sum()),
        }
    drawn = {  # the rows of a stream have been drawn by weight
        name: counts["tokens"] * (1 if args.streaming else counts["weight"])
        for name, counts in counts_by_source.items()
    }
    whole = f"the first {len(features):,} training pairs" if args.streaming else "an epoch"
    for name, counts in counts_by_source.items():
        counts["share"] = drawn[name] / sum(drawn.values())
        console.print(
            f"{name}: weight {counts['weight']:g}, {counts['pairs']:,} training pairs, "
            f"{100 * counts['share']:.1f} % of the tokens of {whole}"
        )
    return {"sources": counts_by_source}
