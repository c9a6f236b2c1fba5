"""The task `ppo` of `trine evaluate`: what PPO changed, the policy before and after, on held-out prompts.

Both answer the same prompts with the same seeds. Reported: scores of the reward it learned from and of a held-out
reward model, KL to the reference, share that parses, distinct-2, length; samples beside what the person wrote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trine.algorithms.text_log_probs import target_log_probs
from trine.algorithms.text_statistics import distinct_share, mean_median_deviation
from trine.catalog.loading import open_model
from trine.catalog.rewards import open_reward
from trine.config.evaluation import EvaluateConfig
from trine.config.rewards import RewardSum, parts_of
from trine.data.files import read_examples
from trine.data.functions import ParseCheck, check_parsing, cut_at_last_line
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import Answer, Closing, Example, Message, Rollout
from trine.rewards.mixture import leaves
from trine.rewards.model import ModelReward
from trine.runtime.device import Hardware
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.progress import progress_bar
from trine.runtime.seeds import derive_seed
from trine.stages.rl.experience import pad_rollouts
from trine.stages.rl.prompts import Prompt
from trine.tokenizer.chat_format import Chat, chat_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.run_folder import RunFolder

ROWS_AT_ONCE = 64
PLAIN_PROMPTS = (
    "import numpy as",
    "from sklearn.model_selection import train_test_split\n\nX_train, X_test, y_train, y_test =",
)
FUNCTION_PROMPT = 'def print_hello_world():\n    """Print \'Hello, World!\' to the screen."""'


@dataclass(frozen=True)
class Side:
    """One policy's rollouts and its answers, a row per prompt and sample."""

    rollouts: list[Rollout]
    answers: list[Answer]

    @property
    def texts(self) -> list[str]:
        return [answer.response for answer in self.answers]


def compare_policies(config: EvaluateConfig, hardware: Hardware, folder: RunFolder) -> dict[str, Any]:
    """The figures of both policies; writes samples.jsonl."""
    prompts = Path(str(config.prompts))
    examples = read_examples(prompts)
    if not examples:
        raise TrineError(f"{prompts} holds no prompts to evaluate on")
    count, examples = len(examples), examples * config.samples
    (before, tokenizer), (after, _) = (open_model(str(policy), hardware) for policy in config.policies)
    chat = chat_format(tokenizer)
    sides = {
        "before": _answer(before, examples, chat, config),
        "after": _answer(after, examples, chat, config),
        "person": _persons(examples, chat),
    }
    sides = {name: _in_groups(side, count) for name, side in sides.items()}
    scores = {
        reward: _score(getattr(config, reward), sides, tokenizer, hardware, config.closed)
        for reward in ("reward", "held_out_reward")
    }
    results = _figures(sides, scores, examples)
    results["kl"] = _kl(after, before, sides["after"].rollouts, config.temperature, tokenizer.pad)
    results["completions"] = _completions(config, chat, before, after, hardware)
    write_jsonl(folder.path / "samples.jsonl", _samples(examples, sides, scores, config.shown))
    return results


def _answer(model: Transformer, examples: list[Example], chat: Chat, config: EvaluateConfig) -> Side:
    sampling = Sampling(
        config.max_new_tokens, config.temperature, derive_seed(config.seed, "evaluate"), eos_ids=chat.end_ids
    )
    with progress_bar("answering", len(examples)) as bar:
        prompts = [chat.prompt_ids(example.prompt) for example in examples]
        rollouts = Engine(model).generate(prompts, sampling, on_finished=bar.advance_or_stop)
    return _side(rollouts, examples, chat)


def _side(rollouts: list[Rollout], examples: list[Example], chat: Chat) -> Side:
    answers = [
        Prompt(rollout.prompt_ids, example.prompt, example.columns).answer(rollout, chat)
        for example, rollout in zip(examples, rollouts, strict=True)
    ]
    return Side(rollouts, answers)


def _in_groups(side: Side, prompts: int) -> Side:
    """The side whose answers to one of so many prompts are a group."""
    return replace(side, answers=[replace(each, prompt_index=row % prompts) for row, each in enumerate(side.answers)])


def _persons(examples: list[Example], chat: Chat) -> Side:
    """What people wrote, as if it had been sampled: the measure of every figure."""
    responses = [tuple(chat.response_ids(example.response)) for example in examples]
    rollouts = [
        Rollout(tuple(chat.prompt_ids(example.prompt)), ids, (0.0,) * len(ids), "eos")
        for example, ids in zip(examples, responses, strict=True)
    ]
    side = _side(rollouts, examples, chat)
    return replace(side, answers=[replace(a, response=e.response) for a, e in zip(side.answers, examples, strict=True)])


def _score(
    name: str | RewardSum,
    sides: dict[str, Side],
    policy_tokenizer: Tokenizer,
    hardware: Hardware,
    closed: Closing | None,
) -> dict[str, list[float]]:
    reward = open_reward(name, hardware, closed)
    rollouts = [rollout for side in sides.values() for rollout in side.rollouts]
    longest = max(len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts)
    for part, named in zip(leaves(reward), parts_of(name), strict=True):
        if isinstance(part, ModelReward):
            part.check_reads(policy_tokenizer, longest, named.name)
    return {side_name: reward.score(side.answers).tolist() for side_name, side in sides.items()}


def _figures(
    sides: dict[str, Side], scores: dict[str, dict[str, list[float]]], examples: list[Example]
) -> dict[str, Any]:
    written = {reward: {side: [*map(_or_null, each)] for side, each in of.items()} for reward, of in scores.items()}
    results: dict[str, Any] = {"prompts": len(examples), "scores": written}
    for name, side in sides.items():
        results[name] = {
            **{reward: _of_those_it_applies_to(scores[reward][name], reward) for reward in scores},
            "parsing": _parsing(side, examples),
            "distinct_2": distinct_share([rollout.response_ids for rollout in side.rollouts], 2),
            "length": mean_median_deviation([float(len(rollout.response_ids)) for rollout in side.rollouts])["mean"],
            "ended_share": sum(rollout.ended for rollout in side.rollouts) / len(side.rollouts),
        }
    for reward in scores:
        gain = {
            statistic: results["after"][reward][statistic] - results["before"][reward][statistic]
            for statistic in ("mean", "median")
        }
        deviation = results["before"][reward]["deviation"] or 1.0
        results[f"{reward}_gain_in_deviations"] = {name: value / deviation for name, value in gain.items()}
    return results


def _of_those_it_applies_to(scores: Sequence[float], reward: str) -> dict[str, float]:
    """Figures of the scores; of how many answers there are none, where the reward does not apply to all."""
    known = [score for score in scores if not math.isnan(score)]
    if not known:
        raise TrineError(f"{reward} applies to none of {len(scores)} answers; give another, or other prompts")
    missing = {"does_not_apply": len(scores) - len(known)} if len(known) < len(scores) else {}
    return mean_median_deviation(known) | missing


def _or_null(score: float) -> float | None:
    return None if math.isnan(score) else score


def _parsing(side: Side, examples: list[Example]) -> dict[str, float]:
    check: ParseCheck = check_parsing(
        (example.prompt[-1].content, text, rollout.ended)
        for example, text, rollout in zip(examples, side.texts, side.rollouts, strict=True)
    )
    return {
        "share": check.share,
        "ended": check.ended,
        "ended_share": check.ended_parsing / max(check.ended, 1),
        "cut": check.cut,
        "cut_share": check.cut_parsing / max(check.cut, 1),
    }


@torch.no_grad()
def _kl(policy: Transformer, reference: Transformer, rollouts: list[Rollout], temperature: float, pad: int) -> float:
    """Mean over responses of the sum over tokens of log policy - log reference, nats."""
    total = 0.0
    for start in range(0, len(rollouts), ROWS_AT_ONCE):
        padded = pad_rollouts(rollouts[start : start + ROWS_AT_ONCE], pad, policy.output_weight.device)
        logs = [
            target_log_probs(
                model(padded.ids)[padded.rows, padded.columns], model.output_weight, padded.targets, temperature
            )
            for model in (policy, reference)
        ]
        total += float((logs[0] - logs[1]).double().sum())
    return total / len(rollouts)


def _completions(
    config: EvaluateConfig, chat: Chat, before: Transformer, after: Transformer, hardware: Hardware
) -> list[dict[str, str]]:
    """Greedy answers to three fixed prompts: two continued by the pretrained model, one answered by both policies."""
    base, tokenizer = open_model(str(config.base), hardware)
    prompts = [tokenizer.prompt_ids(text) for text in PLAIN_PROMPTS]
    plain = Engine(base).generate(prompts, Sampling(24, 0.0, eos_ids=tokenizer.stop_ids))
    rows = [
        {"prompt": prompt, "pretrained": tokenizer.decode(rollout.response_ids, skip="")}
        for prompt, rollout in zip(PLAIN_PROMPTS, plain, strict=True)
    ]
    ask = [chat.prompt_ids((Message("user", FUNCTION_PROMPT),))]
    sampling = Sampling(config.max_new_tokens, 0.0, eos_ids=chat.end_ids)
    answered = {
        name: chat.text(Engine(model).generate(ask, sampling)[0].response_ids)
        for name, model in (("before", before), ("after", after))
    }
    return [*rows, {"prompt": FUNCTION_PROMPT, **answered}]


def _samples(
    examples: list[Example], sides: dict[str, Side], scores: dict[str, dict[str, list[float]]], shown: int
) -> list[dict[str, Any]]:
    """Every n-th prompt: nothing is chosen by how it looks."""
    every = max(1, len(examples) // shown)
    return [
        {
            "prompt": examples[index].prompt[-1].content,
            "name": examples[index].name,
            **{
                name: {
                    "text": side.texts[index]
                    if side.rollouts[index].ended
                    else cut_at_last_line(side.texts[index]) + " …",
                    "reward": _or_null(scores["reward"][name][index]),
                    "held_out_reward": _or_null(scores["held_out_reward"][name][index]),
                }
                for name, side in sides.items()
            },
        }
        for index in range(0, every * shown, every)
        if index < len(examples)
    ]
