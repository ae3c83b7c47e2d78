"""From dialogues to a trained, evaluated response generator, in one command.

    python run_seq2seq_dialog.py configs/demo.yaml
    python run_seq2seq_dialog.py configs/t5_small.yaml --data dialogues_text.txt
    accelerate launch run_seq2seq_dialog.py configs/t5_small.yaml

A run that was stopped goes on from its last checkpoint by the same command.
"""

from seq2seq_dialog.errors import run
from seq2seq_dialog.train import main

if __name__ == "__main__":
    run(main)
