"""In fp32 the score of a text is the same to the bit alone, padded, packed, in any batch, in any order, and saved."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.tiny import FAMILY_NAMES, scramble, tiny_config, tiny_tokenizer
from trine.catalog.loading import open_score_model
from trine.data.packing import pad
from trine.model.config import ModelConfig
from trine.model.folder import save_score_model
from trine.model.heads import ScoreModel
from trine.model.kernels import linear
from trine.model.products import row_invariant
from trine.model.training_library import training_library
from trine.model.transformer import Transformer
from trine.records import Answer
from trine.rewards import batches
from trine.rewards.batches import is_row_invariant_model, score_in_batches
from trine.rewards.model import ModelReward
from trine.runtime.device import choose_hardware

LENGTHS = (1, 7, 31, 64, 33, 130, 2, 90)
CPU = torch.device("cpu")


def wide_config(family: str) -> ModelConfig:
    """Widths that our own kernels take."""
    kv_heads = 2 if family == "gpt2" else 1
    return replace(tiny_config(family, context=256), width=64, heads=2, kv_heads=kv_heads, head_dim=32, mlp_width=96)


def score_model(config: ModelConfig) -> ScoreModel:
    model = ScoreModel(Transformer(config))
    scramble(model.trunk, 0)
    model.initialize_head(0)
    return model.eval()


def rows() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(97, (length,), generator=generator).tolist() for length in LENGTHS]


def scores(model: ScoreModel, given: list[list[int]], at_once: int) -> Tensor:
    return score_in_batches(given, lambda ids, lengths: model(ids, lengths - 1), 0, CPU, at_once)


@pytest.mark.parametrize("family", FAMILY_NAMES)
@torch.no_grad()
def test_alone_padded_packed_in_any_batch_and_order(family: str) -> None:
    if training_library() is None:
        pytest.skip("needs a compiler")
    model = score_model(wide_config(family))
    assert is_row_invariant_model(model.trunk)
    alone = scores(model, rows(), 1)
    for at_once in (2, 3, 64):
        assert torch.equal(scores(model, rows(), at_once), alone)
    assert torch.equal(scores(model, rows()[::-1], 3).flip(0), alone)
    with row_invariant():
        ids, lengths = pad(rows(), 5)
        wider = torch.cat((ids, torch.full((len(ids), 45), 6)), 1)
        assert torch.equal(model(wider, lengths - 1), alone)
        assert torch.equal(packed(model, rows()), alone)


def packed(model: ScoreModel, given: list[list[int]]) -> Tensor:
    """All texts in one row, one after the other."""
    starts, positions, ends = [], [], []
    for row in given:
        first = len(starts)
        starts += [first] * len(row)
        positions += range(len(row))
        ends.append(len(starts) - 1)
    ids = torch.tensor([[each for row in given for each in row]])
    hidden = model.trunk(ids, positions=torch.tensor([positions]), starts=torch.tensor([starts]))
    scored: Tensor = model.head(hidden[0, ends]) + model.offset
    return scored


def test_each_row_of_our_products_is_a_sum_of_its_own() -> None:
    if training_library() is None:
        pytest.skip("needs a compiler")
    weight, x = torch.randn(96, 64), torch.randn(130, 64)
    with row_invariant():
        alone = torch.cat([linear(row.unsqueeze(0), weight, None) for row in x])
        assert torch.equal(linear(x, weight, None), alone)


def test_threads_change_no_score() -> None:
    if training_library() is None:
        pytest.skip("needs a compiler")
    model, before = score_model(wide_config("qwen3")), torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(scores(model, rows(), 64))
    torch.set_num_threads(before)
    assert torch.equal(*found)


def test_shapes_that_our_kernels_do_not_take_are_scored_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = score_model(tiny_config("gpt2", context=256))
    assert not is_row_invariant_model(model.trunk) and batches.rows_at_once(model.trunk) == 1
    wide = score_model(wide_config("gpt2"))
    monkeypatch.setattr(batches, "usable", lambda *arguments, **options: False)  # as without a compiler, or on a GPU
    assert batches.rows_at_once(wide.trunk) == 1
    wide.trunk.compute_dtype = torch.bfloat16
    assert batches.rows_at_once(wide.trunk) == batches.ROWS_AT_ONCE


def test_saved_and_opened_it_scores_the_same_to_the_bit_and_in_transformers_to_rounding(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = wide_config("gpt2")
    model = score_model(replace(config, vocab_size=320))
    model.form = "text"
    tokenizer = tiny_tokenizer()
    save_score_model(model, tmp_path, pad_token_id=tokenizer.pad)
    tokenizer.save(tmp_path)
    answers = [Answer((), text, query="") for text in ("the number is 4", "yes", "class Counter:\n    pass")]
    before = ModelReward(model, tokenizer).score(answers)
    hardware = choose_hardware("cpu", "fp32", 1)
    assert torch.equal(ModelReward(*open_score_model(tmp_path, hardware)).score(answers), before)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for answer, score in zip(answers, before, strict=True):
        ids = [*tokenizer.prompt_ids(answer.response), tokenizer.end_of_text]
        logit = theirs(input_ids=torch.tensor([ids])).logits[0, 0]
        assert float(logit.detach()) == pytest.approx(float(score), abs=1e-5)
