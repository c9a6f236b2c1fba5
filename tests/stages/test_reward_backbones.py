"""Reward models that are no model of Trine's: by words, and encoders with a tokenizer of their own."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import trine
from tests.conftest import PLAIN_CPU, QUIET_LOOP, Command
from tests.encoders import write_encoder
from trine.config.base import LoopConfig
from trine.config.loading import validated
from trine.config.preferences import RewardConfig
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, read_jsonl
from trine.stages.preferences.reward import run

GOOD, BAD = ("good", "fine", "not bad"), ("bad", "dull", "not good")
FILLERS = ("film", "plot", "music", "acting", "all the film", "the very plot")


def texts_of(words: tuple[str, ...]) -> list[str]:
    return [
        f"it was {word} , the {filler} and {word} {other}" for word in words for filler in FILLERS for other in FILLERS
    ]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same sentiment told as labels, scores, pairs and rankings."""
    folder = tmp_path_factory.mktemp("records")
    good, bad = texts_of(GOOD), texts_of(BAD)
    rows: dict[str, list[dict[str, Any]]] = {
        "labels": [{"text": t, "label": "pos"} for t in good] + [{"text": t, "label": "neg"} for t in bad],
        "scores": [{"text": t, "score": 8} for t in good] + [{"text": t, "score": 2} for t in bad],
        "pairs": [{"prompt": "", "chosen": a, "rejected": b} for a, b in zip(good, bad, strict=True)],
        "rankings": [
            {"prompt": "", "answers": [b, a, a.replace("it", "this")], "ranking": [[1, 2], [0]]}
            for a, b in zip(good, bad, strict=True)
        ],
    }  # fmt: skip
    for name, each in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in each))
    return {name: folder / f"{name}.jsonl" for name in rows}


def config(out: Path, records: dict[str, Path], *kinds: str, **more: Any) -> RewardConfig:
    files = {name: (records[name],) for name in kinds}
    given = {"out": out, "form": "text", "held_out_share": 0.25, "hardware": PLAIN_CPU, "loop": QUIET_LOOP}
    return validated(RewardConfig, {**given, **files, **more}, "test")


def scores(folder: Path, *texts: str) -> list[float]:
    return trine.load_reward(folder, device="cpu", precision="fp32").score(list(texts))


@pytest.mark.parametrize(
    "kinds", [("labels",), ("scores",), ("pairs",), ("rankings",), ("labels", "scores", "pairs", "rankings")]
)
def test_words_are_learned_from_every_kind_of_judgement(
    records: dict[str, Path], tmp_path: Path, kinds: tuple[str, ...]
) -> None:
    folder = run(config(tmp_path / "words", records, *kinds, kind="words"))
    done = read_json(folder / "done.json")
    found = [value for name, value in done.items() if name.startswith("held_out_")]
    assert len(found) == len(kinds) and min(found) > 0.8
    good, bad = scores(folder, "a good film", "a dull plot")
    assert good > bad
    assert set(done["words_for"]) & {"good", "fine", "not bad"} and set(done["words_against"]) & {"dull", "not good"}


def test_words_of_the_same_records_are_the_same_to_the_bit_and_a_finished_run_is_done(
    records: dict[str, Path], tmp_path: Path
) -> None:
    first, second = (run(config(tmp_path / name, records, "labels", kind="words")) for name in ("a", "b"))
    weights = [folder / "model" / "model.safetensors" for folder in (first, second)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    before = weights[0].stat().st_mtime_ns
    assert run(config(tmp_path / "a", records, "labels", kind="words")) == first
    assert weights[0].stat().st_mtime_ns == before


def test_cut_texts_are_learned_too(records: dict[str, Path], tmp_path: Path) -> None:
    cuts = {"count": 2, "low": 2, "high": 4}
    folder = run(config(tmp_path / "cuts", records, "labels", kind="words", cuts=cuts))
    assert read_json(folder / "done.json")["records"]["train"]["label"] > 2 * len(texts_of(GOOD))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder") / "base")


def encoder_config(out: Path, records: dict[str, Path], encoder: Path, *kinds: str, **more: Any) -> RewardConfig:
    settings = {"optimizer": {"learning_rate": 0.003}, "epochs": 2, "kind": "encoder", "model": str(encoder)}
    return config(out, records, *kinds, **{**settings, **more})


@pytest.fixture(scope="module")
def encoder_run(records: dict[str, Path], encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(encoder_config(tmp_path_factory.mktemp("run") / "reward", records, encoder, "labels", "pairs"))


def test_an_encoder_trains_saves_and_opens_in_transformers(encoder_run: Path) -> None:
    done = read_json(encoder_run / "done.json")
    assert done["held_out_label_accuracy"] > 0.9 and done["held_out_accuracy"] > 0.9
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(encoder_run / "model")
    tokenizer = AutoTokenizer.from_pretrained(encoder_run / "model")
    texts = ["it was good , the film", "dull acting and bad music"]
    for text, score in zip(texts, scores(encoder_run, *texts), strict=True):
        logit = model(**tokenizer(text, return_tensors="pt")).logits[0, 0]
        assert float(logit.detach()) == pytest.approx(score, abs=1e-5)
    assert scores(encoder_run, *texts)[0] > 0 > scores(encoder_run, *texts)[1]


def test_scores_and_rankings_train_an_encoder_too(records: dict[str, Path], encoder: Path, tmp_path: Path) -> None:
    settings = {"epochs": 1.0, "held_out_share": 0.5}
    folder = run(encoder_config(tmp_path / "reward", records, encoder, "scores", "rankings", **settings))
    done = read_json(folder / "done.json")
    assert done["held_out_score_spearman"] > 0.5 and done["held_out_ranking_accuracy"] > 0.7


def test_the_recipe_of_distilbert_is_what_an_encoder_takes(records: dict[str, Path], encoder: Path) -> None:
    found = config(Path("out"), records, "labels", kind="encoder", model=str(encoder), optimizer={"epsilon": 1e-6})
    optimizer = found.optimizer
    assert (found.epochs, found.batch_size, found.too_long) == (3.0, 10, "cut")
    assert (optimizer.kind, optimizer.learning_rate, optimizer.epsilon) == ("adamw", 5e-5, 1e-6)
    assert config(Path("out"), records, "labels", kind="encoder", model="x", epochs=1).epochs == 1


def test_an_interrupted_encoder_goes_on_to_the_same_weights(
    records: dict[str, Path], encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trine.training.loop import Loop

    def settings(out: str) -> RewardConfig:
        loop = LoopConfig(save_every=2)
        return encoder_config(tmp_path / out, records, encoder, "labels", epochs=0.3, loop=loop)

    whole = run(settings("whole"))
    step = Loop._step

    def stop(self: Loop, number: int) -> dict[str, float]:
        if number == 3:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(settings("cut"))
    resumed = run(settings("cut"))
    files = [folder / "model" / "model.safetensors" for folder in (whole, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_too_long_texts_are_cut_dropped_or_refused(records: dict[str, Path], encoder: Path, tmp_path: Path) -> None:
    def settings(out: str, too_long: str) -> RewardConfig:
        return encoder_config(tmp_path / out, records, encoder, "labels", epochs=0.1, max_tokens=12, too_long=too_long)

    cut = read_json(run(settings("cut", "cut")) / "done.json")
    assert cut["account"]["train"]["cut"] > 0 and cut["max_tokens"] == 12
    assert read_json(tmp_path / "cut" / "model" / "config.json")["trine"]["max_tokens"] == 12
    assert read_json(run(settings("drop", "drop")) / "done.json")["account"]["train"]["dropped"] > 0
    with pytest.raises(TrineError, match=r"labels\.jsonl.*more than max_tokens=12"):
        run(settings("stop", "stop"))


def test_an_encoder_rewards_a_policy_of_another_tokenizer(
    encoder_run: Path, finetune_run: Path, functions_run: Path, tmp_path: Path, command: Command
) -> None:
    """Through text: PPO's samples have the score that `trine score` gives the same text."""
    code, _, message = command(
        "ppo", "--model", finetune_run, "--reward", encoder_run, "--prompts", functions_run / "train.jsonl",
        "--out", tmp_path / "ppo", "--iterations", 1, "--batch_size", 8, "--minibatch_size", 8, "--micro_batch_size", 8,
        "--max_new_tokens", 8, "--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", 1,
    )  # fmt: skip
    assert code == 0, message
    row = next(row for row in read_jsonl(tmp_path / "ppo" / "metrics.jsonl") if "score" in row)
    assert torch.isfinite(torch.tensor(row["score"]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "words", "model": "x"}, "starts from no model"),
        ({"kind": "encoder"}, "--model is required"),
        ({}, "--model is required"),
        ({"kind": "encoder", "model": "x", "lora": {"rank": 2}}, "lora.rank is of kind=model"),
        ({"kind": "words", "normalize": "on"}, "normalize=on is of kind=model"),
        ({"kind": "encoder", "model": "x", "optimizer": {"kind": "muon"}}, "optimizer.kind=adamw"),
    ],
)
def test_settings_that_a_kind_has_no_use_for_are_refused(
    records: dict[str, Path], settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(TrineError, match=words):
        config(Path("out"), records, "labels", **settings)
