"""Done-when of PPO: with a learning rate of 0 the ratio is 1 and the KL does not change, for every family, with LoRA or
without, on conversations, plain text and several turns."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import PLAIN_CPU
from tests.tiny import make_likely, scramble, tiny_config, tiny_model, tiny_tokenizer
from trine.catalog.adapters import begin_lora
from trine.config.lora import LoraConfig
from trine.config.rl import PpoConfig
from trine.model.folder import save_model
from trine.model.heads import PolicyWithValue
from trine.model.lora import lora_parameters
from trine.records import Answer, Message
from trine.runtime.errors import TrineError
from trine.stages.rl.ppo import PpoObjective, run
from trine.stages.rl.prompts import Prompt
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3")
WAYS = ("chat", "text", "turns")
TEXTS = ("The cat sat on the mat,", "def add(", "for number in", "It's 2024, and", "class", "print(", "other", "a")
STOPS = tuple("aeiou")
STEPS_AN_ITERATION = 4


class LettersReward:
    """Reads text alone."""

    def score(self, answers: Sequence[Answer]) -> Tensor:
        return torch.tensor([0.1 * len(answer.response) for answer in answers])


def objective_of(family: str, way: str, rank: int = 0, **changes: Any) -> PpoObjective:
    """A policy with a reference of its own (with LoRA: its frozen base), 2 epochs of 2 minibatches."""
    settings: dict[str, Any] = {
        "out": "out", "model": "model", "prompts": "prompts", "reward": "package:function", "batch_size": 8,
        "minibatch_size": 4, "micro_batch_size": 2, "max_new_tokens": 6, "form": "text" if way == "text" else "chat",
    }  # fmt: skip
    if way == "turns":
        settings |= {"user": "tests.stages.talkers:curious", "max_turns": 3, "stop_strings": STOPS}
    config = PpoConfig(**settings | changes)
    policy, reference = (tiny_model(tiny_config(family, vocab_size=320, context=192), seed) for seed in (0, 1))
    form = answer_format(tiny_tokenizer(), config.form)
    if family == "gpt2":
        for model in (policy, reference):
            make_likely(model, form.end_id, 1.5)
    if rank:
        begin_lora(policy, LoraConfig(rank=rank), seed=0)
        for parameter in lora_parameters(policy).values():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(3))
        reference = policy
    model = PolicyWithValue(policy)
    scramble(model.value_head, seed=5)
    return PpoObjective(model, reference, LettersReward(), prompts_of(form), form, config)


def prompts_of(form: Any) -> list[Prompt]:
    if isinstance(form, TextFormat):
        return [Prompt(tuple(form.query_ids(text)), query=text) for text in TEXTS]
    messages = [(Message("user", text),) for text in TEXTS]
    return [Prompt(tuple(form.prompt_ids(each)), each) for each in messages]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_without_updates_the_ratio_is_one_and_the_kl_stays(family: str, rank: int, way: str) -> None:
    objective = objective_of(family, way, rank)
    kls = []
    for iteration in range(2):
        for step in range(STEPS_AN_ITERATION):
            for batch in objective.batches(iteration * STEPS_AN_ITERATION + step):
                terms = objective.terms(batch)
                peak = float(terms["peak_log_ratio"].value)
                assert peak == 0 if step < 2 else peak < 1e-4  # other rows of another epoch's micro-batches: rounding
                assert terms["clip_fraction"].value == 0
        kls.append(per_token_kl(objective))
    assert kls[0] != 0
    objective.start_iteration(0)
    assert per_token_kl(objective) == pytest.approx(kls[0], abs=1e-6)
    if way == "turns":
        assert any(one.written and not all(one.written) for one in objective.experience.rollouts)


def per_token_kl(objective: PpoObjective) -> float:
    experience = objective.experience
    return float((experience.old_log_probs - experience.reference_log_probs)[experience.mask].mean())


def test_of_several_turns_nothing_is_learned_at_tokens_that_others_wrote() -> None:
    """Their log-probabilities, values and advantages are 0; the gradient does not move when they are made unlikely."""
    objective = objective_of("gpt2", "turns")
    objective.batches(0)
    experience = objective.experience
    others = ~experience.mask
    assert int(experience.mask.sum()) < sum(len(one.response_ids) for one in experience.rollouts)
    for name in ("old_log_probs", "old_values", "reference_log_probs", "advantages", "returns"):
        assert not getattr(experience, name)[others].any()
    for batch in objective.batches(0):
        tokens = sum(len(experience.rollouts[row].written_places) for row in batch)
        assert objective.counts(batch)["policy"] == tokens


def test_an_answer_of_plain_text_carries_its_query() -> None:
    objective = objective_of("gpt2", "text")
    objective.batches(0)
    for one, answer in zip(objective.experience.rollouts, objective.experience.answers, strict=True):
        assert answer.prompt == ()
        assert answer.query in TEXTS
        assert answer.prompt_ids == one.prompt_ids
        assert answer.response == objective.chat.tokenizer.decode(one.response_ids)
        assert one.ended == (one.response_ids[-1] == objective.chat.tokenizer.end_of_text)


# Stop strings


def test_a_stop_string_counts_as_ended_and_the_score_stands_at_its_last_token() -> None:
    """trl#3750, trl#1893: the penalty for a missing end hit answers that a custom stop had ended, or nobody at all."""
    objective = objective_of(
        "llama", "text", stop_strings=("e", "a"), gae_lambda=1.0, missing_eos_penalty=5.0, kl={"coefficient": 0.0}
    )
    objective.batches(0)
    experience, tokenizer = objective.experience, objective.chat.tokenizer
    reasons = {one.stop_reason for one in experience.rollouts}
    assert {"stop", "length"} <= reasons
    for row, one in enumerate(experience.rollouts):
        text = tokenizer.decode(one.response_ids)
        stopped = any(stop in text for stop in ("e", "a"))
        assert one.ended == (stopped or one.response_ids[-1] == tokenizer.end_of_text)
        assert float(experience.returns[row, 0]) == pytest.approx(
            float(experience.scores[row]) - 5.0 * (not one.ended), rel=1e-5
        )
        if stopped:
            answer = Prompt(one.prompt_ids, query="").answer(one, objective.chat, ("e", "a"))
            assert not any(stop in answer.response for stop in ("e", "a"))
            assert text.startswith(answer.response)
            assert answer.response_ids == ()


@pytest.mark.parametrize("pad_is_eos", [True, False])
def test_padding_with_the_end_token_changes_nothing(pad_is_eos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """trl#1623, #2059, #3091: with pad = eos the end of an answer was masked, or the first pad found in the prompt."""
    plain = objective_of("gpt2", "turns")
    plain.batches(0)
    objective = objective_of("gpt2", "turns")
    tokenizer = objective.chat.tokenizer
    monkeypatch.setattr(tokenizer, "pad", objective.chat.end_id if pad_is_eos else tokenizer.end_of_text)
    objective.batches(0)
    for name in ("old_log_probs", "old_values", "advantages", "returns"):
        assert torch.equal(getattr(plain.experience, name), getattr(objective.experience, name))


# The whole stage


@pytest.fixture
def text_run(tmp_path: Path, pretrain_run: Path) -> dict[str, Any]:
    """Settings of a run of PPO on plain text, against a function."""
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(f'{{"text": "import number{n} as n\\nprint(n)"}}\n' for n in range(12)), encoding="utf-8")
    return {
        "model": str(pretrain_run), "prompts": lines, "form": "text", "query_tokens": (2, 4), "iterations": 2,
        "batch_size": 4, "minibatch_size": 2, "micro_batch_size": 2, "epochs": 1, "max_new_tokens": 6,
    }  # fmt: skip


def last_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def letters(prompts: list[str], responses: list[str], ended: list[bool]) -> list[float]:
    """A reward function: how many letters a response has."""
    return [sum(letter.isalpha() for letter in response) / 10 for response in responses]


def test_plain_text_goes_through_the_whole_stage(text_run: dict[str, Any], tmp_path: Path) -> None:
    config = PpoConfig(
        out=tmp_path / "ppo", reward="tests.stages.test_ppo_forms:letters", hardware=PLAIN_CPU, **text_run
    )
    folder = run(config)
    rows = [row for row in last_rows(folder) if "kl" in row]
    assert abs(rows[0]["kl"]) < 1e-4
    assert (folder / "policy" / "model.safetensors").exists()
    assert run(config) == folder


def test_a_teacher_is_approached_without_any_reward(
    text_run: dict[str, Any], tmp_path: Path, tokenizer_run: Path
) -> None:
    """On-policy distillation: the reward of a token is log teacher less log pi; KL to the teacher falls."""
    tokenizer = Tokenizer.load(tokenizer_run)
    teacher = tiny_model(tiny_config("qwen3", vocab_size=tokenizer.vocab_size, context=128), seed=7)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(0.5 if parameter.dim() > 1 else 1.0)
    save_model(teacher, tmp_path / "teacher", eos_token_id=[tokenizer.end_of_text], pad_token_id=tokenizer.pad)
    tokenizer.save(tmp_path / "teacher")
    changes: dict[str, Any] = {
        "reward": None, "reference": str(tmp_path / "teacher"), "gamma": 0.0, "gae_lambda": 0.0,
        "kl": {"coefficient": 1.0},
        "iterations": 12, "batch_size": 16, "minibatch_size": 16, "micro_batch_size": 16,
        "optimizer": {"kind": "adamw", "learning_rate": 0.01, "decay": "constant"},
    }  # fmt: skip
    folder = run(PpoConfig(out=tmp_path / "distilled", hardware=PLAIN_CPU, **text_run | changes))
    kls = [row["kl"] for row in last_rows(folder) if "kl" in row]
    assert kls[0] > 1
    assert sum(kls[-3:]) / 3 < 0.7 * kls[0]
    assert {row["score"] for row in last_rows(folder) if "score" in row} == {0.0}


def test_a_reference_of_another_tokenizer_is_refused(text_run: dict[str, Any], tmp_path: Path) -> None:
    other = tiny_model(tiny_config("qwen3", vocab_size=340, context=128))
    tokenizer = tiny_tokenizer(340)
    save_model(other, tmp_path / "other", eos_token_id=[tokenizer.end_of_text], pad_token_id=tokenizer.pad)
    tokenizer.save(tmp_path / "other")
    config = PpoConfig(
        out=tmp_path / "run", reward=None, reference=str(tmp_path / "other"), hardware=PLAIN_CPU, **text_run
    )
    with pytest.raises(TrineError, match="has another tokenizer than"):
        run(config)


def test_several_turns_go_through_the_whole_stage(finetune_run: Path, functions_run: Path, tmp_path: Path) -> None:
    config = PpoConfig(
        out=tmp_path / "ppo", model=str(finetune_run), prompts=functions_run / "all.jsonl", iterations=2, batch_size=4,
        reward="tests.stages.test_ppo_forms:letters", user="tests.stages.talkers:curious", max_turns=2, epochs=1,
        minibatch_size=2, micro_batch_size=2, max_new_tokens=16, hardware=PLAIN_CPU,
    )  # fmt: skip
    folder = run(config)
    rows = [row for row in last_rows(folder) if "kl" in row]
    assert abs(rows[0]["kl"]) < 1e-4
    assert rows[0]["engine_difference"] < 1e-4
