"""Which figure agrees with people: each against 500 human ratings of replies, from 1 to 5.

    python -m benchmarks.agreement FOLDER --scorers starter runs/starter_dailydialog

FOLDER has `multiref/mturk_rating_processed_output.csv` (Gupta et al., 2019;
https://github.com/prakharguptaz/multirefeval): replies of a person and of four systems to 100
contexts, with four other references each, one of them DailyDialog's own. It also has
`dailydialog/train/dialogues_train.txt`, for the frequency of words and replies. Scorers are
encoder-decoders that say how likely a reply is after the last turn, and the turn after the reply.
Rank correlations have 95 % intervals; whole contexts are resampled.
"""

import argparse
import csv
import re
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Column, Table
from seq2seq_dialog.dataset_script.detokenize import detokenize

from seq2seq_dialog.errors import UsageError, run
from seq2seq_dialog.run_folder import check_writable, write_json

from .pictures import draw_agreement
from .reply_figures import NONE, ONE, likelihoods, of_references, without_reference

PICTURE = Path(__file__).parent / "agreement.png"
HUMAN = "human"  # what the file calls replies of people
USUAL = "ROUGE-L"  # what is usually reported, with as many references (with one for none)


def measure(folder: str, scorers: list[str], samples: int, seed: int, output: str) -> None:
    """Compute every figure of every reply, correlate it with the ratings, print, draw, write."""
    check_writable(Path(output), [".json"])
    rated, heard = read(Path(folder))
    values = of_references(rated) | without_reference(rated, heard)
    for name in scorers:
        values |= likelihoods(rated, name)
    places = {context: i for i, context in enumerate(dict.fromkeys(r["context"] for r in rated))}
    context_of = np.array([places[row["context"]] for row in rated])
    systems = [row["model"] for row in rated]
    ratings = np.array([float(row["human_average_rating"]) for row in rated])
    draw = np.random.default_rng(seed).integers(len(places), size=(samples, len(places)))
    counts = np.array([np.bincount(row, minlength=len(places)) for row in draw])
    counts = np.vstack([np.ones((1, len(places))), counts])  # the first row is what was measured
    weights = counts[:, context_of]  # (samples + 1, replies)
    results = {key: agreement(v, ratings, weights, systems) for key, v in values.items()}
    for (group, _), found in results.items():
        usual = results[ONE if group == NONE else group, USUAL]
        found["more"] = found["spearman"] - usual["spearman"]
    summary = [
        {"references": group, "figure": label, **{k: interval(v) for k, v in found.items()}}
        for (group, label), found in results.items()
    ]
    summary.sort(key=lambda row: -row["spearman"][0])
    show(summary)
    write_json(Path(output), {"samples": samples, "seed": seed, "figures": summary})
    draw_agreement(summary, PICTURE)
    print(f"Written to {output} and {PICTURE}.")


def read(folder: Path) -> tuple[list[dict], list[str]]:
    """Read the rated replies and what is said in the training split, as natural text."""
    try:
        with open(folder / "multiref" / "mturk_rating_processed_output.csv", encoding="utf-8") as f:
            rated = list(csv.DictReader(f))
        train = folder / "dailydialog" / "train" / "dialogues_train.txt"
        heard = train.read_text(encoding="utf-8").replace("\n", "").split("__eou__")
    except OSError as error:
        raise UsageError(f"{error}. See the head of benchmarks/agreement.py.") from error
    for row in rated:
        row["last_turn"] = natural(row["context"].split("||||")[-1])
        row["reply"], row["original"] = natural(row["response"]), natural(row["prevgt"])
        row["references"] = [natural(text) for text in row["all_references"].split("\t")]
    return rated, heard


def natural(text: str) -> str:
    """Undo spaCy's tokens (`do n't`) and lower case, as far as rules go."""
    text = re.sub(r" (?=(?:n't|'(?:s|m|d|re|ve|ll))\b)", "", text)
    text = re.sub(r"\b(can|gon|got) (not|na|ta)\b", r"\1\2", text)
    text = re.sub(r"\bi\b", "I", detokenize(text))
    text = re.sub(r"(^|[.?!] )([a-z])", lambda match: match[1] + match[2].upper(), text)
    return " ".join(text.split())


def agreement(
    values: np.ndarray, ratings: np.ndarray, weights: np.ndarray, systems: list[str]
) -> dict[str, np.ndarray]:
    """Correlate a figure with the ratings, per reply and per system, in every resample.

    Args:
        values: (replies,), as are `ratings` and `systems`.
        weights: how often each resample has each reply, (resamples, replies).

    Returns:
        Rank correlations by name, (resamples,) each: `spearman` and `kendall` (tau-b) per reply,
        `machines`, which is Spearman's without the replies of people, and of the systems' means
        `spearman_systems` and `kendall_systems`.
    """
    names = sorted(set(systems))
    members = np.array([[system == name for name in names] for system in systems], float)
    sizes = weights @ members  # (resamples, systems)
    means = [weights @ (members * each[:, None]) / sizes for each in (values, ratings)]
    alone = np.ones((1, len(names)))
    by_system = [
        [correlate(x, y, alone).item() for x, y in zip(*means, strict=True)]
        for correlate in (spearman, kendall)
    ]
    machines = weights * (np.array(systems) != HUMAN)
    return {
        "spearman": spearman(values, ratings, weights),
        "kendall": kendall(values, ratings, weights),
        "machines": spearman(values, ratings, machines),
        "spearman_systems": np.array(by_system[0]),
        "kendall_systems": np.array(by_system[1]),
    }


def spearman(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute Spearman's rho of (items,), item i taken weights[:, i] times, (resamples,)."""
    total = weights.sum(1, keepdims=True)
    deviations = []
    for each in (x, y):
        below = (each[:, None] > each) + 0.5 * (each[:, None] == each)  # (items, items)
        ranks = weights @ below.T  # (resamples, items); the mean rank where there are ties
        deviations.append(ranks - (weights * ranks).sum(1, keepdims=True) / total)
    a, b = deviations
    covariance = (weights * a * b).sum(1)
    return quotient(covariance, np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1)))


def kendall(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute Kendall's tau-b as `spearman` does its rho: copies of an item are ties."""
    a, b = (np.sign(each[:, None] - each) for each in (x, y))  # (items, items)
    same, of_a, of_b = ((weights @ signs * weights).sum(1) for signs in (a * b, abs(a), abs(b)))
    return quotient(same, np.sqrt(of_a * of_b))


def quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Divide, with 0 where b is 0: what never varies goes with nothing."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 1e-6)


def interval(values: np.ndarray) -> list[float]:
    """Return what was measured, then the ends of the 95 % interval of the resamples."""
    return [float(values[0]), *np.quantile(values[1:], [0.025, 0.975]).tolist()]


def show(summary: list[dict]) -> None:
    """Print a table, the figure that agrees best first."""
    headings = ("Spearman", "more than ROUGE-L", "Kendall", "without people", "of systems")
    table = Table("figure", "", *(Column(heading, justify="right") for heading in headings))
    for row in summary:
        keys = ("spearman", "more", "kendall", "machines", "spearman_systems")
        cells = ["{:.2f} ({:.2f} to {:.2f})".format(*row[key]) for key in keys]
        table.add_row(row["figure"], row["references"], *cells)
    Console(width=160).print(table)


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agreement", allow_abbrev=False)
    parser.add_argument("folder", help="with multiref/ and dailydialog/")
    parser.add_argument("--scorers", nargs="*", default=["starter"], help="models [starter]")
    parser.add_argument("--output", default="runs/agreement.json", help="[%(default)s]")
    parser.add_argument("--samples", type=int, default=1000, help="resamples [%(default)s]")
    parser.add_argument("--seed", type=int, default=42)
    return parser


def main() -> None:
    """Correlate the figures of the ratings that the command line names."""
    run(lambda: measure(**vars(build_parser().parse_args())))


if __name__ == "__main__":
    main()
