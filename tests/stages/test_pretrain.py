"""Pretraining learns, measures in bits per byte, and writes a model others can open."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.conftest import PLAIN_CPU, pretrain_config
from trine.catalog.loading import open_hardware, open_model
from trine.config.corpus import CorpusConfig
from trine.data.corpus import open_corpus
from trine.runtime.files import read_json, read_jsonl
from trine.stages.pretraining.pretrain import run


def test_the_loss_falls_far_below_guessing(pretrain_run: Path) -> None:
    losses = [row["loss"] for row in read_jsonl(pretrain_run / "metrics.jsonl") if "loss" in row]
    assert losses[0] == pytest.approx(math.log(320), rel=0.05)
    assert losses[-1] < losses[0] - 2


@pytest.mark.parametrize("packing", ["packed", "stream"])
def test_bits_per_byte_are_those_of_a_plain_forward_pass(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path, packing: str
) -> None:
    """Every held-out token but each window's first, and each document's where training kept documents apart."""
    folder = run(pretrain_config(tmp_path / "run", corpus, tokenizer_run, tokens=20 * 4 * 64, packing=packing))
    model, tokenizer = open_model(folder, open_hardware(PLAIN_CPU))
    documents = list(open_corpus(corpus).documents("held_out"))
    ids = [token for document in documents for token in [*tokenizer.encode(document.text), tokenizer.end_of_text]]
    size = sum(len(document.text.encode()) for document in documents)
    nats, read = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 64):
            window = ids[start : start + 65]
            for piece in _pieces(window, tokenizer.end_of_text) if packing == "packed" else [window]:
                inputs, targets = torch.tensor(piece[:-1]), torch.tensor(piece[1:])
                logits = model(inputs[None])[0] @ model.output_weight.T
                nats -= float(logits.log_softmax(-1).gather(1, targets[:, None]).double().sum())
                read += len(targets)
    expected = nats / math.log(2) / (size * read / len(ids))
    results = read_json(folder / "done.json")
    assert results["bits_per_byte/folders"] == pytest.approx(expected, rel=1e-4)


def _pieces(window: list[int], end_of_text: int) -> list[list[int]]:
    """What of each document lies in a window, where that is more than one token."""
    cuts = [0, *(place + 1 for place, token in enumerate(window) if token == end_of_text), len(window)]
    return [window[first:end] for first, end in pairwise(cuts) if end - first > 1]


def test_results_stand_beside_baselines(pretrain_run: Path) -> None:
    results = read_json(pretrain_run / "done.json")
    assert 0 < results["xz_bits_per_byte/folders"] < 8
    assert 0 < results["verbatim_line_share/folders"] < 1
    assert results["tokens"] == sum(row.get("tokens", 0) for row in read_jsonl(pretrain_run / "metrics.jsonl"))
    assert results["tokens"] == pytest.approx(60 * 4 * 64 * (1 - results["padded_share"]), rel=0.02)
    assert results["dropped_share"] == 0 and 0 < results["padded_share"] < 0.2


def test_the_folder_opens_in_transformers_with_the_same_numbers(pretrain_run: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, tokenizer = open_model(pretrain_run, open_hardware(PLAIN_CPU))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(pretrain_run / "model").eval()
    ids = torch.tensor([tokenizer.encode("def add_price_3(first, second):\n")])
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids) @ model.output_weight.T, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path, family: str
) -> None:
    shape = {"family": family, "layers": 1, "width": 32, "heads": 2, "context": 64}
    runs = [
        run(pretrain_config(tmp_path / name, corpus, tokenizer_run, tokens=1024, model=shape, seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    a, b, c = ((folder / "model" / "model.safetensors").read_bytes() for folder in runs)
    assert a == b != c


def test_a_finished_run_is_left_alone(pretrain_run: Path, corpus: CorpusConfig, tokenizer_run: Path) -> None:
    before = (pretrain_run / "model" / "model.safetensors").stat().st_mtime_ns
    run(pretrain_config(pretrain_run, corpus, tokenizer_run))
    assert (pretrain_run / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_recomputed_blocks_change_memory_and_not_a_bit(
    tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path
) -> None:
    kept, again = (
        run(
            pretrain_config(
                tmp_path / str(recompute), corpus, tokenizer_run, tokens=5 * 4 * 64, recompute_blocks=recompute
            )
        )
        for recompute in (False, True)
    )
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (kept, again)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_compiled_model_learns_the_same(tmp_path: Path, corpus: CorpusConfig, tokenizer_run: Path) -> None:
    losses = []
    for switch in ("off", "on"):
        config = pretrain_config(tmp_path / switch, corpus, tokenizer_run, tokens=5 * 4 * 64, compile=switch)
        rows = read_jsonl(run(config) / "metrics.jsonl")
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
