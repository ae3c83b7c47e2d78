"""Training speed of the recurrent model against the same model with a Python loop for a decoder.

    OMP_NUM_THREADS=1 python -m benchmarks.rnn_decoder --threads 1
    python -m benchmarks.rnn_decoder --device cuda --cells gru lstm

The peer is the model as tutorials write it in PyTorch. The encoder, the same module as ours, runs
over packed sequences; then a `for` loop goes over the target positions: embed the token before,
attend, one step of nn.GRU or nn.LSTM, read out, score the vocabulary, add the step's cross-entropy
to the loss. As in ours, attention's keys are computed once per source, and padding is masked.
The difference is what ours does for all steps at once: vocabulary and loss always; cell and
attention where no step of the cell needs the attention of the one before.

Both have the same parameters and, asserted before any clock runs, the same loss and gradients.
Each round trains both in turn on the same batches: forward, backward, clip, AdamW. The batches are
random tokens, 2,048 with padding, in lengths like DailyDialog's as comparison.yaml cuts them; the
speed counts source and target tokens without padding. The last line is JSON.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import platform
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_outputs import Seq2SeqLMOutput

from seq2seq_dialog.data.batching import TokenBudgetSampler
from seq2seq_dialog.portable import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration

VOCABULARY = 8000
FORMS = {
    "none": {"attention": "none"},
    "multiplicative": {"attention": "multiplicative"},
    "input_feeding": {"attention": "multiplicative", "input_feeding": True},
    "additive": {"attention": "additive"},
}


class StepByStep(nn.Module):
    """The model (of one layer) with everything behind its encoder in a loop over target tokens."""

    def __init__(self, model: RnnSeq2SeqForConditionalGeneration):
        super().__init__()
        self.config, self.encoder, self.head = model.config, model.model.encoder, model.lm_head
        decoder = model.model.decoder
        self.cell, self.attention = decoder.layers[0], decoder.attention
        self.readout = decoder.readout

    def attend(self, hidden, encoded, padding):
        """(batch, hidden) -> the weighted encoder states (batch, hidden)."""
        if self.config.attention == "additive":
            query = self.attention.query(hidden).unsqueeze(1)  # (batch, 1, hidden)
            scores = self.attention.energy(torch.tanh(query + encoded.attention_keys)).squeeze(2)
        else:
            scores = torch.bmm(encoded.attention_keys, hidden.unsqueeze(2)).squeeze(2)
        weights = scores.masked_fill(padding, -torch.inf).softmax(1)  # (batch, source_len)
        return torch.bmm(weights.unsqueeze(1), encoded.last_hidden_state).squeeze(1)

    def forward(self, input_ids, attention_mask, labels):
        """Compute the loss, the mean over labels (batch, target_len), -100 where none is."""
        encoded, padding = self.encoder(input_ids, attention_mask), attention_mask.eq(0)
        attention, lstm = self.config.attention, self.config.cell == "lstm"
        state = encoded.state[:, :, 0].transpose(0, 1).contiguous()  # (states, batch, hidden)
        state = tuple(state.split(1)) if lstm else state
        token = labels.new_full((len(labels),), self.config.decoder_start_token_id)
        vector = encoded.state.new_zeros(len(labels), self.config.embedding_size)
        loss = 0.0
        for target in labels.unbind(1):
            inputs = self.encoder.embedding(token)  # (batch, embedding)
            if attention == "additive":
                context = self.attend((state[0] if lstm else state)[0], encoded, padding)
                inputs = torch.cat([inputs, context], dim=1)
            elif self.config.input_feeding:
                inputs = torch.cat([inputs, vector], dim=1)
            hidden, state = self.cell(inputs.unsqueeze(1), state)
            hidden = hidden.squeeze(1)
            if attention == "multiplicative":
                context = self.attend(hidden, encoded, padding)
            read = hidden if attention == "none" else torch.cat([hidden, context], dim=1)
            vector = torch.tanh(self.readout(read))
            logits = self.head(vector)  # (batch, vocab)
            loss = loss + functional.cross_entropy(logits, target, reduction="sum")
            token = target.clamp(min=0)
        return Seq2SeqLMOutput(loss=loss / labels.ne(-100).sum())


def make_batches(count: int, device) -> tuple[list[dict[str, torch.Tensor]], int]:
    """Draw batches of random tokens; return them and their number of tokens without padding.

    An utterance has exp(N(ln 13, 0.6)) tokens, 15 in the mean; a source has the last utterances,
    of up to eight, that fit.
    """
    rng = np.random.default_rng(0)
    lengths = []
    for _ in range(120 * count):
        turns = np.exp(rng.normal(np.log(13), 0.6, rng.integers(2, 10))).astype(int).clip(2, 40)
        source = np.cumsum(turns[1:] + 1)  # of the last turn, the last two, ...
        lengths.append((source[source <= 64].max(), turns[0]))
    batches, tokens = [], 0
    for rows in list(TokenBudgetSampler(lengths, 2048))[:count]:
        sizes = [lengths[i] for i in rows]
        draw = [[torch.from_numpy(rng.integers(3, VOCABULARY, n)) for n in size] for size in sizes]
        source, target = zip(*draw, strict=True)
        batch = {"input_ids": pad_sequence(source, batch_first=True)}
        batch["attention_mask"] = batch["input_ids"].ne(0).long()
        batch["labels"] = pad_sequence(target, batch_first=True, padding_value=-100)
        batches.append({name: tensor.to(device) for name, tensor in batch.items()})
        tokens += int(np.sum(sizes))
    return batches, tokens


def train(model, optimizer, batches, device) -> tuple[float, int]:
    """Train on each batch once; return the seconds, and on CUDA the most bytes a step added."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    for batch in batches:
        model(**batch).loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if device.type != "cuda":
        return time.perf_counter() - start, 0
    torch.cuda.synchronize(device)
    return time.perf_counter() - start, torch.cuda.max_memory_allocated(device) - held


def compare(form: str, cell: str, batches, tokens: int, rounds: int, device) -> dict:
    """Assert that both are one model, then train them in turn."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "embedding_size": 256, "hidden_size": 512}
    config = RnnSeq2SeqConfig(**sizes, cell=cell, dropout=0.0, **FORMS[form])
    model = RnnSeq2SeqForConditionalGeneration(config).train()
    twin = copy.deepcopy(model).to(device)
    models = {"ours": model.to(device), "loop": StepByStep(twin)}
    losses = [model(**batches[0]).loss for model in models.values()]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    sum(losses).backward()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)
    model.zero_grad()
    twin.zero_grad()

    optimizers = {n: torch.optim.AdamW(m.parameters(), fused=True) for n, m in models.items()}
    speeds, peaks = {"ours": [], "loop": []}, {"ours": 0, "loop": 0}
    for i in range(rounds + 1):
        for name in models:
            seconds, peak = train(models[name], optimizers[name], batches, device)
            if i > 0:  # the first round is to warm up
                speeds[name].append(tokens / seconds)
                peaks[name] = max(peaks[name], peak)
    ratios = [ours / loop for ours, loop in zip(*speeds.values(), strict=True)]
    row = {"cell": cell, "form": form, "ratio": statistics.median(ratios)}
    row |= {"least_ratio": min(ratios), "greatest_ratio": max(ratios)}
    row |= {f"{name}_tokens_per_second": statistics.median(speeds[name]) for name in models}
    return row | {f"{name}_peak_mib": peaks[name] / 2**20 or None for name in models}


def main() -> None:
    """Measure each cell and form, print a line for each and all of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1 [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds [%(default)s]")
    parser.add_argument("--batches", type=int, default=8, help="batches a round [%(default)s]")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU")
    parser.add_argument("--cells", nargs="+", choices=("gru", "lstm"), default=["gru", "lstm"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 in both, whichever kernel a step takes
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    threads = torch.get_num_threads()
    batches, tokens = make_batches(args.batches, device)
    print(f"{name}, {threads} threads; a round has {tokens:,} tokens in {len(batches)} batches")
    print(f"{'cell':5} {'form':15} {'ours tok/s':>11} {'loop tok/s':>11} {'ratio':>6}")
    results = []
    for cell, form in itertools.product(args.cells, args.forms):
        row = compare(form, cell, batches, tokens, args.rounds, device)
        ours, loop = row["ours_tokens_per_second"], row["loop_tokens_per_second"]
        print(f"{cell:5} {form:15} {ours:11,.0f} {loop:11,.0f} {row['ratio']:6.2f}", flush=True)
        results.append(row)
    about = {"device": name, "threads": threads, "torch": torch.__version__}
    print(json.dumps(vars(args) | about | {"results": results}))


if __name__ == "__main__":
    main()
