"""Which way gives which replies: models, plain ways of decoding, candidates chosen by weights.

    python -m benchmarks.replies MODEL --data DAILYDIALOG --split validation --output val.json \\
        --grid '{context_free: [0, .25, .5], mbr: [0, 2, 4]}'
    python -m benchmarks.replies MODEL OTHER --data DAILYDIALOG --contexts 10000 --candidates 0 \\
        --multireference multireftest.json --ways greedy "4 beams" --picture ways.png

The contexts are those of clean pairs. Each model decodes once in each plain way. Candidates of the
first model are decoded once, and scored once by each criterion and against the references. All is
kept in the output: the same command with other weights takes seconds, and with more ways or models
only these are decoded. Times are those of a reply, in times of the first way.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from seq2seq_dialog.dataset_script.dialogues import normalised
from transformers.utils.logging import disable_progress_bar

from seq2seq_dialog.data.batching import evaluation_batches
from seq2seq_dialog.data.corpus import read_corpus
from seq2seq_dialog.data.overlap import audit
from seq2seq_dialog.decoding.batch_loop import decode
from seq2seq_dialog.decoding.beam_loop import search
from seq2seq_dialog.errors import UsageError, run
from seq2seq_dialog.evaluation.diversity import diversity, stock_phrases
from seq2seq_dialog.evaluation.protocols import multiref, multiref_tokens
from seq2seq_dialog.models.loading import load_model_files, load_tokenizer_files
from seq2seq_dialog.portable import reranking
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.portable.options import CRITERIA, check_weights
from seq2seq_dialog.portable.reranking import rank, weigh
from seq2seq_dialog.run_folder import check_writable, read_json, write_json
from seq2seq_dialog.serve.inference import generate_responses, load
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.strict_yaml import load_mapping
from seq2seq_dialog.train import OTHER_CONTEXTS

from .pictures import draw_ways

GREEDY = {"do_sample": False, "num_beams": 1, "candidates": 1, "guidance_weight": 0.0}
NUCLEUS = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "top_k": 0}
WAYS = {
    "greedy": GREEDY,
    "4 beams": GREEDY | {"num_beams": 4},
    "nucleus 0.9": GREEDY | NUCLEUS,
    "guidance 0.5": GREEDY | {"guidance_weight": 0.5},
    "guidance 1": GREEDY | {"guidance_weight": 1.0},
    "guidance 0.5, 4 beams": GREEDY | {"num_beams": 4, "guidance_weight": 0.5},
    "guidance 0.75, 4 beams": GREEDY | {"num_beams": 4, "guidance_weight": 0.75},
}
WEIGHTS = [
    {"likelihood": 1},
    {"likelihood_sum": 1},
    {"likelihood": 1, "context_free": 0.5},
    {"likelihood": 1, "context_free": 1},
    {"likelihood": 1, "other_contexts": 0.5},
    {"likelihood": 1, "other_contexts": 0.5, "stock": 1},
    {"likelihood_sum": 1, "context_free_sum": 0.5},
    {"mbr": 1},
    {"likelihood": 1, "context_free": 0.5, "mbr": 2},
]
# May change for the same contexts and candidates.
FREE = {"models", "ways", "weights", "grid", "examples", "output", "picture", "device"}
SHOWN = ("bleu_2", "rouge_l", "distinct_2", "generic", "copied", "length_ratio")
TOKENS_PER_BATCH = 4096


def pairs_of(args) -> tuple[list, list[str], list[list[str]], list[str]]:
    """Read evenly spaced clean pairs: contexts, references, all references, training replies."""
    corpus = read_corpus(DataArguments(data=args.data, multireference=args.multireference))
    rows = corpus.rows[args.split]
    if args.multireference and args.split != corpus.evaluated_split:
        raise UsageError("multireference has references of the test split: set --split test.")
    clean = np.flatnonzero(audit(corpus.rows)["clean"][args.split])
    chosen = clean[np.linspace(0, len(clean) - 1, min(args.contexts, len(clean))).astype(int)]
    responses = [rows[int(i)]["response"] for i in chosen]
    several = [[" ".join(multiref_tokens(text))] for text in responses]
    if args.multireference:
        several = [corpus.references[i] for i in chosen]
    contexts = [rows[int(i)]["context"] for i in chosen]
    return contexts, responses, several, corpus.rows["train"]["response"]


def decode_ways(args, contexts: list, training: list[str], found: dict) -> None:
    """Decode what is not there yet: all ways of all models, and the candidates with their criteria.

    All is written as soon as it is there.
    """
    for name in args.models:
        missing = [way for way in args.ways if label(name, way) not in found["ways"]]
        wants_pool = name == args.models[0] and args.candidates and "pool" not in found
        if not (missing or wants_pool):
            continue
        model, tokenizer, device = load(name, args.device)
        generate_responses(contexts[:8], model, tokenizer, device, **GREEDY)  # warm
        for way in missing:
            torch.manual_seed(args.seed)
            begin = time.perf_counter()
            replies = generate_responses(contexts, model, tokenizer, device, **WAYS[way])
            found["seconds"][label(name, way)] = time.perf_counter() - begin
            found["ways"][label(name, way)] = replies
            write_json(Path(args.output), found)
        if wants_pool:
            # What the model says too often, by no more than its own first replies.
            first = found["ways"][label(name, args.ways[0])]
            written = {normalised(reply): reply for reply in first}
            stock = sorted(written[phrase] for phrase in stock_phrases([*map(normalised, first)]))
            others = training[:: -(-len(training) // OTHER_CONTEXTS)]
            texts = {"stock_phrases": stock, "other_contexts": others}
            pool = pool_of(args, contexts, model, tokenizer, texts)
            found["seconds"] |= pool.pop("seconds")
            found |= pool | texts
            write_json(Path(args.output), found)


def label(model: str, way: str) -> str:
    """Name a way of a model."""
    return f"{Path(model).name}, {way}"


@torch.no_grad()
def pool_of(args, contexts: list, model, tokenizer, texts_of: dict) -> dict:
    """Decode candidates for each context, and compute each criterion, in batches."""
    encoded = [encode_context(context, tokenizer) for context in contexts]
    texts, values = [None] * len(contexts), {}
    seconds = dict.fromkeys(["candidates", *CRITERIA], 0.0)
    options = {"do_sample": True, "temperature": args.temperature, "top_p": args.top_p, "top_k": 0}
    options |= {"num_beams": 1, "custom_generate": decode}
    if args.num_beams:
        options = {"num_beams": args.num_beams, "do_sample": False, "custom_generate": search}
    guidance = {"guidance_weight": args.guidance_weight, "guidance_tokens": 0}
    options = reranking.generate_options(model, tokenizer, guidance, options)
    reverse = None
    if args.reverse_model:
        files = (args.reverse_model, "the reverse model", "Give a run folder.")
        reverse = load_model_files(*files).to(model.device).eval(), load_tokenizer_files(*files)
    names = [name for name in CRITERIA if reverse or not name.startswith("reverse")]
    longest = model.generation_config.max_new_tokens
    lengths = [(args.candidates * len(ids), args.candidates * longest) for ids in encoded]
    for batch in evaluation_batches(lengths, TOKENS_PER_BATCH):
        rows = [encoded[i] for i in batch]
        ids, mask = reranking.pad(rows, tokenizer.pad_token_id, model.device)
        begin = time.perf_counter()
        inputs = reranking.encode_once(model, {"input_ids": ids, "attention_mask": mask})
        torch.manual_seed(args.seed + batch[0])
        pool = reranking.decode_pool(model, tokenizer, inputs, args.candidates, options)
        seconds["candidates"] += time.perf_counter() - begin
        for criterion in dict.fromkeys(name.removesuffix("_sum") for name in names):
            begin = time.perf_counter()
            of_it = [name for name in names if name.removesuffix("_sum") == criterion]
            own = texts_of | {"rerank": of_it}
            computed = reranking.score_pool(model, tokenizer, inputs, pool, own, reverse)
            seconds[criterion] += time.perf_counter() - begin
            for name, rows_of_it in computed.items():
                for i, row in zip(batch, rows_of_it.tolist(), strict=True):
                    values.setdefault(name, {})[i] = row
        for i, candidates in zip(batch, pool.texts, strict=True):
            texts[i] = candidates
    ordered = {name: [of[i] for i in range(len(contexts))] for name, of in values.items()}
    return {"pool": texts, "values": ordered, "seconds": seconds}


def choices(found: dict, settings: list[dict]) -> dict[str, tuple[list[int], float]]:
    """Choose a candidate of each context by each setting: the places, and the seconds it takes."""
    values = {name: torch.tensor(rows) for name, rows in found["values"].items()}
    seconds, chosen = found["seconds"], {}
    for weights in settings:
        used = {name: weight for name, weight in weights.items() if weight}
        scores = weigh(values, used)
        places = [rank(*row) for row in zip(found["pool"], scores, strict=True)]
        passes = {name.removesuffix("_sum") for name in used}
        cost = seconds["candidates"] + sum(seconds[name] for name in passes)
        label = ", ".join(f"{name} {weight:g}" for name, weight in used.items())
        chosen[label] = [(distinct + others)[0] for distinct, others in places], cost
    chosen["a random candidate"] = [0] * len(found["pool"]), seconds["candidates"]
    return chosen


def report(found: dict, settings: list[dict], known: set[str]) -> dict[str, list[str]]:
    """Print the figures of every way and every setting, and keep them; return the replies."""
    ways = {
        name: (replies, multiref(replies, found["references"]), found["seconds"][name])
        for name, replies in found["ways"].items()
    }
    if "pool" in found:
        size = len(found["pool"][0])
        texts = [text for row in found["pool"] for text in row]
        pool = multiref(texts, [several for several in found["references"] for _ in range(size)])
        chosen = choices(found, settings)
        best = pool.statistics["bleu_2"].columns[:, 0].reshape(-1, size).argmax(1)
        cost = found["seconds"]["candidates"]
        chosen["the best BLEU-2, by the references"] = best.tolist(), cost
        for name, (places, seconds) in chosen.items():
            rows = [size * i + place for i, place in enumerate(places)]
            ways[name] = [texts[row] for row in rows], pool.of(rows), seconds
    table, usual = Table("way", *SHOWN, "time"), next(iter(ways.values()))[-1]
    found["figures"] = {}
    for name, (replies, scored, seconds) in ways.items():
        figures = scored.figures() | diversity(replies, found["responses"], known)
        found["figures"][name] = {key: float(figures[key]) for key in SHOWN}
        found["figures"][name]["time"] = seconds / usual
        table.add_row(name, *(f"{value:.2f}" for value in found["figures"][name].values()))
    Console(width=160).print(table)
    return {name: replies for name, (replies, _, _) in ways.items()}


def settings_of(args) -> list[dict]:
    """List the weights to try: those given, and all combinations of a grid; else `WEIGHTS`."""
    settings = [load_mapping("weights", text, "{mbr: 1}") for text in args.weights or ()]
    if args.grid:
        grid = load_mapping("grid", args.grid, "{context_free: [0, .5], mbr: [0, 2]}")
        if not all(isinstance(row, list) for row in grid.values()):
            raise UsageError(f"grid is {args.grid}; it has a list of weights for each criterion.")
        combinations = itertools.product(*grid.values())
        settings += [{"likelihood": 1} | dict(zip(grid, row, strict=True)) for row in combinations]
    for weights in settings:
        try:
            check_weights(weights)
        except ValueError as error:
            raise UsageError(str(error)) from error
    return settings or WEIGHTS


def compare(args) -> None:
    """Measure what was not measured before; print figures, and some of the replies."""
    disable_progress_bar()
    settings, output = settings_of(args), Path(args.output)
    check_writable(output, [".json"])
    about = {name: value for name, value in vars(args).items() if name not in FREE}
    contexts, responses, references, training = pairs_of(args)
    found = {"responses": responses, "references": references, "ways": {}, "seconds": {}}
    found["about"] = about
    if output.exists():
        found = read_json(output)
        if found.get("about") != about:
            raise UsageError(f"{args.output} was made otherwise. Choose another --output.")
    decode_ways(args, contexts, training, found)
    replies = report(found, settings, set(map(normalised, training)))
    write_json(output, found)
    if args.picture:
        draw_ways(found["figures"], Path(args.picture))
    for i in range(min(args.examples, len(contexts))):
        print("\n" + " / ".join(contexts[i][-3:]) + f"\n    a person: {responses[i]}")
        for name, of_way in replies.items():
            print(f"    {name}: {of_way[i]}")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replies", allow_abbrev=False)
    parser.add_argument("models", nargs="+", help="run folders or checkpoints", metavar="model")
    parser.add_argument(
        "--ways",
        nargs="+",
        default=list(WAYS),
        choices=WAYS,
        metavar="WAY",
        help=f"of {', '.join(map(repr, WAYS))} [all]",
    )
    parser.add_argument("--data", required=True, help="dialogues with splits")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    parser.add_argument("--multireference", help="multireftest.json, for the test split")
    parser.add_argument("--contexts", type=int, default=200, help="[%(default)s]")
    parser.add_argument("--candidates", type=int, default=10, help="0 for none [%(default)s]")
    parser.add_argument(
        "--temperature", type=float, default=1.0, help="of candidates [%(default)s]"
    )
    parser.add_argument("--top_p", type=float, default=0.9, help="of candidates [%(default)s]")
    parser.add_argument(
        "--guidance_weight", type=float, default=0.0, help="of candidates [%(default)s]"
    )
    parser.add_argument("--num_beams", type=int, help="candidates by beams, not by sampling")
    parser.add_argument("--reverse_model", help="a model that was trained with exchange_sides")
    parser.add_argument("--weights", action="append", help="a mapping, once or several times")
    parser.add_argument("--grid", help="all combinations: '{context_free: [0, .5], mbr: [0, 2]}'")
    parser.add_argument("--examples", type=int, default=0, help="replies to print [%(default)s]")
    parser.add_argument("--output", default="runs/replies.json", help="[%(default)s]")
    parser.add_argument("--picture", help="variety against BLEU-2, a PNG file")
    parser.add_argument("--seed", type=int, default=42, help="[%(default)s]")
    parser.add_argument("--device", help="[a GPU where there is one]")
    return parser


def main() -> None:
    """Compare what the command line names."""
    run(lambda: compare(build_parser().parse_args()))


if __name__ == "__main__":
    main()
