"""Classifiers of Hugging Face's form as rewards: their own tokenizer, their own unit, the same score in any company."""

from pathlib import Path

import pytest
import torch

from tests.encoders import tiny_encoder, write_encoder
from trine.catalog.rewards import open_model_reward
from trine.records import Answer, Message
from trine.rewards.encoder import EncoderReward, EncoderSettings, unit_of
from trine.runtime.device import choose_hardware
from trine.runtime.errors import TrineError

FP32 = choose_hardware("cpu", "fp32", 1)
TEXTS = [
    "a good film",
    "bad",
    "",
    "the plot was dull and the acting was bad, but the music was good",
    "fine film " * 60,
]


def texts(*given: str) -> list[Answer]:
    return [Answer((), text, query="") for text in given]


def test_f7_two_logits_have_two_units() -> None:
    two = torch.tensor([[-1.3, 1.5]])
    assert float(unit_of(two, EncoderSettings(8, "positive_logit", 1))) == 1.5
    odds = float(unit_of(two, EncoderSettings(8, "log_odds", 1)))
    assert odds == pytest.approx(2.8) and float(torch.sigmoid(torch.tensor(odds))) == pytest.approx(0.942676, abs=1e-6)
    assert float(unit_of(two, EncoderSettings(8, "log_odds", 0))) == pytest.approx(-2.8)


def test_the_score_is_that_of_transformers(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "two", labels=2)
    reward = open_model_reward(str(folder), FP32)
    assert isinstance(reward, EncoderReward)
    model, tokenizer = reward.model, reward.tokenizer
    scores = reward.score(texts(*TEXTS))
    for text, score in zip(TEXTS, scores, strict=True):
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        logits = model(**inputs).logits[0]
        assert float(score) == pytest.approx(float(logits[1] - logits[0]), abs=1e-5)
    good = open_model_reward(str(folder), FP32, positive_logit=True).score(texts(TEXTS[0]))
    logits = model(**tokenizer(TEXTS[0], return_tensors="pt")).logits[0]
    assert float(good) == pytest.approx(float(logits[1]), abs=1e-5)


def test_a_score_is_the_same_to_the_bit_in_any_company(tmp_path: Path) -> None:
    reward = open_model_reward(str(write_encoder(tmp_path / "one", labels=1)), FP32)
    alone = torch.cat([reward.score(texts(text)) for text in TEXTS])
    assert torch.equal(reward.score(texts(*TEXTS)), alone)
    assert torch.equal(reward.score(texts(*TEXTS[::-1])).flip(0), alone)
    again = open_model_reward(str(tmp_path / "one"), FP32)
    assert torch.equal(again.score(texts(*TEXTS)), alone)
    assert len(alone.unique()) == len(TEXTS)


def test_a_cut_text_ends_as_all_do_and_of_code_at_its_last_whole_line(tmp_path: Path) -> None:
    folder = str(write_encoder(tmp_path / "one", labels=1))
    cut, whole = Answer((), "good film\nbad act", False, query=""), Answer((), "good film", query="")
    by_end, by_line = open_model_reward(folder, FP32), open_model_reward(folder, FP32, "line")
    assert float(by_line.score([cut])) == float(by_line.score([whole])) != float(by_end.score([cut]))


def test_an_answer_of_another_tokenizer_and_of_a_conversation_is_read_as_text(tmp_path: Path) -> None:
    reward = open_model_reward(str(write_encoder(tmp_path / "one", labels=1)), FP32)
    foreign = Answer((Message("user", "Write."),), "good film", True, (9, 9), (8, 8), "another")
    parts = Answer((), " film", query="good")
    assert reward.score([foreign, parts]).tolist() == reward.score(texts("good film", "good film")).tolist()


def test_bf16_with_our_products_is_near_fp32_and_its_head_is_fp32(tmp_path: Path) -> None:
    folder = str(write_encoder(tmp_path / "one", labels=1))
    bf16 = open_model_reward(folder, choose_hardware("cpu", "bf16", 1)).score(texts(*TEXTS))
    assert (bf16 - open_model_reward(folder, FP32).score(texts(*TEXTS))).abs().max() < 0.1  # of a spread of 3
    assert not torch.equal(bf16, bf16.bfloat16().float())


@pytest.mark.parametrize(("labels", "positive", "words"), [(3, False, "3 labels"), (1, True, "has one label")])
def test_what_is_no_reward_is_refused(tmp_path: Path, labels: int, positive: bool, words: str) -> None:
    folder = write_encoder(tmp_path / "odd", labels=labels)
    with pytest.raises(TrineError, match=words):
        open_model_reward(str(folder), FP32, positive_logit=positive)


def test_weights_that_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "one", labels=1)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(TrineError, match="cannot be opened by transformers"):
        open_model_reward(str(folder), FP32)


def test_without_transformers_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_encoder(tmp_path / "one", labels=1)
    monkeypatch.setattr("trine.catalog.encoders.find_spec", lambda name: None)
    with pytest.raises(TrineError, match=r"pip install 'trine\[hf\]'"):
        open_model_reward(str(folder), FP32)


def test_a_label_called_positive_is_the_good_one(tmp_path: Path) -> None:
    model, tokenizer = tiny_encoder(labels=2, names=("POSITIVE", "NEGATIVE"))
    folder = write_encoder(tmp_path / "named", model=model, tokenizer=tokenizer)
    reward = open_model_reward(str(folder), FP32)
    assert isinstance(reward, EncoderReward) and reward.settings.good == 0
