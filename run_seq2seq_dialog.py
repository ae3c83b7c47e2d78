"""From dialogues to a trained, evaluated response generator, in one command.

    python run_seq2seq_dialog.py configs/demo.yaml
    python run_seq2seq_dialog.py configs/t5_small.yaml --data dialogues_text.txt
    accelerate launch run_seq2seq_dialog.py configs/t5_small.yaml

A run that was stopped goes on from its last checkpoint by the same command.
"""

import sys

from seq2seq_dialog.__main__ import run_by_settings
from seq2seq_dialog.errors import run

if __name__ == "__main__":
    run(lambda: run_by_settings(sys.argv[1:]))
