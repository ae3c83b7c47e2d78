"""The server in this process, at a free port, and a model for it."""

import socket
import threading
import time
from contextlib import contextmanager

import torch
from transformers import T5Config, T5ForConditionalGeneration, set_seed

from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.serve.api import Server, make_app
from seq2seq_dialog.serve.scheduler import Scheduler
from seq2seq_dialog.settings import DecodingArguments

NAME = "tiny"  # that clients call the model


def lively_model():
    """Make a T5 whose replies depend on their contexts, and end now and then; it has 3 beams."""
    set_seed(2)
    sizes = {"vocab_size": 512, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2}
    model = T5ForConditionalGeneration(T5Config(**sizes, num_heads=4, decoder_start_token_id=0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
        model.get_output_embeddings().weight[model.config.eos_token_id] *= 4
    decoding = DecodingArguments(max_new_tokens=12, num_beams=3)
    model.generation_config = generation_config(decoding, model)
    return model.eval()


def wait_until(condition, seconds=20) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)


@contextmanager
def serving(model, tokenizer, key=None, queue=64, safety=None):
    """Serve a model; gives the address and the scheduler."""
    scheduler = Scheduler(model, tokenizer, queue, safety)
    server = Server(make_app(scheduler, NAME, key), scheduler)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", scheduler
        finally:
            scheduler.stop()
            thread.join()
