"""Makes the bundled model: `python -m tools.bundled.build --out qbench/bundled/tiny-mistral`.

A byte-level BPE tokenizer and a Mistral of 2.95 M weights, trained from scratch on the standard
library's own source. Everything is seeded; the same Python, torch and thread count give the same
weights. The card that is written beside the model states what was done.
"""

from __future__ import annotations

import argparse
import math
import platform
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.sources.bundled import BUNDLED_FOLDER
from tools.bundled.corpus import HELD_OUT, Corpus, read_corpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import MistralForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 2048
CONTEXT = 512
BOS, EOS = "<s>", "</s>"
SEED = 0


@dataclass(frozen=True)
class Training:
    """How the model is trained: AdamW, linear warm-up, then a cosine down to zero."""

    steps: int
    batch: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    clip_norm: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 0 … steps - 1."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCABULARY` entries that puts `<s>` before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_model() -> MistralForCausalLM:
    """The untrained model: grouped-query attention, every linear dimension a multiple of 64."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=576,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        sliding_window=None,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return MistralForCausalLM(config)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    """One long row of ids: each text behind `<s>` and closed by `</s>`; shape (tokens,)."""
    import torch

    ids: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(texts):
        ids += [*encoding.ids, 1]
    return torch.tensor(ids, dtype=torch.long)


def batches(ids: torch.Tensor, training: Training, seed: int) -> Iterator[torch.Tensor]:
    """Yields (batch, CONTEXT) windows, `<s>` first, each epoch cut at a new random offset."""
    import torch

    span = CONTEXT - 1
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        if len(waiting) < training.batch:
            offset = int(torch.randint(span, (1,), generator=generator))
            starts = torch.arange(offset, len(ids) - span, span)
            order = torch.randperm(len(starts), generator=generator)
            waiting = starts[order].tolist()
        rows, waiting = waiting[: training.batch], waiting[training.batch :]
        body = torch.stack([ids[start : start + span] for start in rows])
        yield torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), body], dim=1)


def train(model: MistralForCausalLM, ids: torch.Tensor, training: Training) -> float:
    """Trains in place; returns the mean loss (nats a token) of the last 50 steps."""
    import torch

    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": training.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    losses: list[float] = []
    started = time.monotonic()
    windows = batches(ids, training, SEED)
    for step in range(training.steps):
        batch = next(windows)
        for group in optimizer.param_groups:
            group["lr"] = training.learning_rate_at(step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten()
        )
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            recent = sum(losses[-50:]) / len(losses[-50:])
            rate = (step + 1) / (time.monotonic() - started)
            left_min = (training.steps - step - 1) / rate / 60
            print(f"step {step + 1}: loss {recent:.4f}, {left_min:.1f} min left", flush=True)
    return sum(losses[-50:]) / len(losses[-50:])


def perplexity(model: MistralForCausalLM, ids: torch.Tensor) -> float:
    """Held-out perplexity: windows of `CONTEXT` tokens, `<s>` first, every other token scored."""
    import torch

    span = CONTEXT - 1
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ids), span):
            body = ids[None, start : start + span]
            window = torch.cat([torch.zeros(1, 1, dtype=torch.long), body], dim=1)
            logits = model(window).logits[0, :-1]
            total += torch.nn.functional.cross_entropy(
                logits, window[0, 1:], reduction="sum"
            ).item()
            count += window.shape[1] - 1
    return math.exp(total / count)


CARD = """\
# tiny-mistral

A Mistral of {weights:,} weights (4 layers, hidden 256, 8 query heads on 2 key-value heads, tied
embedding and head, context {context}), with a byte-level BPE tokenizer of {vocabulary} entries. It
exists so that a quantization benchmark has a really trained model to measure with no network; it
is of no other use.

- **Trained on** the source text of the standard library of CPython {python}: {modules} files,
  {megabytes:.1f} MB, {tokens:,} tokens; sha256 of the corpus `{sha256}`.
- **Held out**: {held_out}, and the files that test them.
- **Training**: {steps} steps of {batch} x {context} tokens ({epochs:.1f} epochs), AdamW, learning
  rate {learning_rate} with a cosine to zero, bf16 autocast over fp32 weights; {minutes:.0f} minutes
  on {threads} CPU thread(s), shared with other work.
- **Final training loss**: {loss:.4f} nats a token.
- **Held-out perplexity**: {perplexity:.3f} a token in fp32 (windows of {context}, `<s>` first).
- **Made with** torch {torch} and transformers {transformers}:
  `python -m tools.bundled.build --steps {steps} --threads {threads}`.

The training text is under the PSF licence (see `../stdlib-heldout/LICENSE`).
"""


def main() -> None:
    """Builds model, tokenizer, card and held-out text into the folder named by `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=BUNDLED_FOLDER / "tiny-mistral")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-files", type=int, help="train on the first N files only (a trial)")
    arguments = parser.parse_args()
    build(arguments.out, Training(steps=arguments.steps), arguments.threads, arguments.limit_files)


def build(out: Path, training: Training, threads: int, limit_files: int | None = None) -> None:
    """Reads the corpus, trains tokenizer and model, and writes both with their card to `out`."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    corpus = read_corpus()
    texts = list(corpus.train.values())[:limit_files]
    random.Random(SEED).shuffle(texts)  # noqa: S311 - an order, not a secret
    tokenizer = train_tokenizer(texts)
    ids = encode(tokenizer, texts)
    model = make_model()
    print(
        f"{len(texts)} files, {len(ids):,} tokens, {model.num_parameters():,} weights", flush=True
    )

    started = time.monotonic()
    loss = train(model, ids, training)
    minutes = (time.monotonic() - started) / 60
    model.eval()
    held_out = perplexity(model, encode(tokenizer, list(corpus.held_out.values())))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    card = CARD.format(
        weights=model.num_parameters(),
        context=CONTEXT,
        vocabulary=VOCABULARY,
        python=platform.python_version(),
        modules=len(texts),
        megabytes=sum(map(len, texts)) / 1e6,
        tokens=len(ids),
        sha256=corpus.sha256,
        held_out=", ".join(HELD_OUT),
        epochs=training.steps * training.batch * CONTEXT / len(ids),
        minutes=minutes,
        threads=threads,
        loss=loss,
        perplexity=held_out,
        torch=torch.__version__,
        transformers=transformers.__version__,
        steps=training.steps,
        batch=training.batch,
        learning_rate=training.learning_rate,
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    write_held_out(corpus, out.parent / "stdlib-heldout")
    print(f"held-out perplexity {held_out:.3f} after {minutes:.0f} minutes; written to {out}")


def write_held_out(corpus: Corpus, folder: Path) -> None:
    """Writes the held-out modules, joined by one newline, as the evaluation text."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join(corpus.held_out.values())
    (folder / "stdlib-heldout.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
