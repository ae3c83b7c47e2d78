"""python -m benchmarks [PART ...]: measure speed against the usual recipes, in a checkout."""

import argparse
from functools import partial

from seq2seq_dialog.errors import run

from .suite import PARTS, bench


def main() -> None:
    """Measure the parts that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure training, evaluation, answering and preparation against the recipes "
        "that people use instead, in turn on this machine: medians and ratios.",
        allow_abbrev=False,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} [all]")
    parser.add_argument("--data", help="dialogues [$DIALOG_DATA/dailydialog or the sample corpus]")
    parser.add_argument(
        "--model",
        help="a trained T5 for generation and latency [random weights] and for batches [starter]",
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each contestant [%(default)s]")
    parser.add_argument("--output", help="a folder for the figures [runs/bench]")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--full", action="store_true", help="a million dialogues: an hour or two")
    parser.add_argument("--chart", action="store_true", help="draw benchmarks/ours_vs_peers.png")
    run(partial(bench, **vars(parser.parse_args())))


if __name__ == "__main__":
    main()
