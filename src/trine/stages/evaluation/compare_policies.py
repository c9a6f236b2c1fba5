"""The task `ppo` of `trine evaluate`: what PPO changed, the policy before and after, on held-out prompts.

Both answer the same prompts with the same seeds. Reported: scores of the reward it learned from and of a held-out
reward model, KL to the policy before, distinct-2, length; of code what parses; of plain text the share of scores above
0, half of the scores (`half_score`: where a score is the log-odds of two labels, this is about the positive logit of a
classifier with a logit for each), and the perplexity under the policy before. Samples stand beside what a person wrote.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.text_log_probs import target_log_probs
from trine.algorithms.text_statistics import distinct_share, mean_median_deviation
from trine.catalog.loading import open_model
from trine.catalog.rewards import open_reward
from trine.config.evaluation import EvaluateConfig
from trine.config.rewards import RewardSum, parts_of
from trine.data.functions import ParseCheck, check_parsing, cut_at_last_line
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import Answer, Closing, Message, Rollout
from trine.rewards.mixture import leaves
from trine.rewards.model import ModelReward
from trine.runtime.device import Hardware
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.progress import progress_bar
from trine.runtime.seeds import derive_seed, generator_for
from trine.stages.rl.experience import pad_rollouts
from trine.stages.rl.prompts import Prompt, read_prompts
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.run_folder import RunFolder

ROWS_AT_ONCE = 64
PLAIN_PROMPTS = (
    "import numpy as",
    "from sklearn.model_selection import train_test_split\n\nX_train, X_test, y_train, y_test =",
)
FUNCTION_PROMPT = 'def print_hello_world():\n    """Print \'Hello, World!\' to the screen."""'
REWARDS = ("reward", "held_out_reward")


@dataclass(frozen=True)
class Side:
    """One policy's rollouts and its answers, a row per prompt and sample."""

    rollouts: list[Rollout]
    answers: list[Answer]

    @property
    def texts(self) -> list[str]:
        return [answer.response for answer in self.answers]


Sides = dict[str, Side]
Scores = dict[str, dict[str, list[float]]]
"""of each reward, of each side: a score for every answer"""


def compare_policies(config: EvaluateConfig, hardware: Hardware, folder: RunFolder) -> dict[str, Any]:
    """The figures of both policies; writes samples.jsonl."""
    (before, tokenizer), (after, _) = (open_model(str(policy), hardware) for policy in config.policies)
    form = answer_format(tokenizer, config.form)
    different = _prompts(config, form, before)
    prompts = different * config.samples
    sides = {"before": _answer(before, prompts, form, config), "after": _answer(after, prompts, form, config)}
    if all(prompt.columns.get("response") for prompt in prompts):
        sides["person"] = _persons(prompts, form, config)
    sides = {name: _in_groups(side, len(different)) for name, side in sides.items()}
    scores = {reward: _score(getattr(config, reward), sides, tokenizer, hardware, config.closed) for reward in REWARDS}
    results = _figures(sides, scores, prompts, config)
    after_sums, before_sums = (
        summed_log_probs(model, sides["after"].rollouts, config.temperature, tokenizer.pad) for model in (after, before)
    )
    results["kl"] = float((after_sums - before_sums).mean())
    if isinstance(form, TextFormat):
        for name, side in sides.items():
            results[name]["perplexity"] = perplexity(before, side.rollouts, tokenizer.pad)
    else:
        results["completions"] = _completions(config, form, before, after, hardware)
    write_jsonl(folder.path / "samples.jsonl", _samples(prompts, sides, scores, config))
    return results


def _prompts(config: EvaluateConfig, form: Chat | TextFormat, model: Transformer) -> list[Prompt]:
    """The held-out prompts that leave room for an answer, at most `max_prompts` of them."""
    room = model.config.context - config.max_new_tokens
    prompts = read_prompts(Path(str(config.prompts)), form, room, config.query_tokens, config.seed)
    if not config.max_prompts or len(prompts) <= config.max_prompts:
        return prompts
    order = generator_for(config.seed, "evaluation prompts").permutation(len(prompts))[: config.max_prompts]
    return [prompts[place] for place in sorted(order.tolist())]


def _answer(model: Transformer, prompts: list[Prompt], form: Chat | TextFormat, config: EvaluateConfig) -> Side:
    sampling = Sampling(
        config.max_new_tokens, config.temperature, derive_seed(config.seed, "evaluate"), eos_ids=form.end_ids,
        stop_strings=config.stop_strings,
    )  # fmt: skip
    with progress_bar("answering", len(prompts)) as bar:
        engine = Engine(model, tokenizer=form.tokenizer)
        rollouts = engine.generate([prompt.ids for prompt in prompts], sampling, on_finished=bar.advance_or_stop)
    answers = [
        prompt.answer(rollout, form, config.stop_strings) for prompt, rollout in zip(prompts, rollouts, strict=True)
    ]
    return Side(rollouts, answers)


def _in_groups(side: Side, prompts: int) -> Side:
    """The side whose answers to one of so many prompts are a group."""
    return replace(side, answers=[replace(each, prompt_index=row % prompts) for row, each in enumerate(side.answers)])


def _persons(prompts: list[Prompt], form: Chat | TextFormat, config: EvaluateConfig) -> Side:
    """What people wrote, as if it had been sampled: the measure of every figure. Plain text is cut as samples are."""
    rollouts = []
    for prompt in prompts:
        ids = tuple(form.response_ids(str(prompt.columns["response"])))
        cut = isinstance(form, TextFormat) and len(ids) > config.max_new_tokens
        ids = ids[: config.max_new_tokens] if cut else ids
        rollouts.append(Rollout(prompt.ids, ids, (0.0,) * len(ids), "length" if cut else "eos"))
    answers = [prompt.answer(rollout, form) for prompt, rollout in zip(prompts, rollouts, strict=True)]
    if isinstance(form, TextFormat):
        return Side(rollouts, answers)
    texts = [str(prompt.columns["response"]) for prompt in prompts]  # as it was written
    return Side(rollouts, [replace(answer, response=text) for answer, text in zip(answers, texts, strict=True)])


def _score(
    name: str | RewardSum, sides: Sides, policy_tokenizer: Tokenizer, hardware: Hardware, closed: Closing | None
) -> dict[str, list[float]]:
    reward = open_reward(name, hardware, closed)
    rollouts = [rollout for side in sides.values() for rollout in side.rollouts]
    longest = max(len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts)
    for part, named in zip(leaves(reward), parts_of(name), strict=True):
        if isinstance(part, ModelReward):
            part.check_reads(policy_tokenizer, longest, named.name)
    return {side_name: reward.score(side.answers).tolist() for side_name, side in sides.items()}


def _figures(sides: Sides, scores: Scores, prompts: list[Prompt], config: EvaluateConfig) -> dict[str, Any]:
    written = {reward: {side: [*map(_or_null, each)] for side, each in of.items()} for reward, of in scores.items()}
    results: dict[str, Any] = {"prompts": len(prompts), "scores": written}
    for name, side in sides.items():
        results[name] = {
            **{reward: _of_those_it_applies_to(scores[reward][name], reward) for reward in scores},
            "distinct_2": distinct_share([rollout.response_ids for rollout in side.rollouts], 2),
            "length": mean_median_deviation([float(len(rollout.response_ids)) for rollout in side.rollouts])["mean"],
            "ended_share": sum(rollout.ended for rollout in side.rollouts) / len(side.rollouts),
        }
        if config.form == "chat":
            results[name]["parsing"] = _parsing(side, prompts)
        else:
            for reward in scores:
                results[name][reward] |= of_labels(scores[reward][name])
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


def of_labels(scores: list[float]) -> dict[str, Any]:
    """Of scores that are log-odds: how many are above 0, and half of them, in mean and median.

    >>> of_labels([-1.0, 3.0])
    {'positive_share': 0.5, 'half_score': {'mean': 0.5, 'median': 0.5}}
    """
    known = [score for score in scores if not math.isnan(score)]
    halves = mean_median_deviation([score / 2 for score in known])
    return {
        "positive_share": sum(score > 0 for score in known) / len(known),
        "half_score": {name: halves[name] for name in ("mean", "median")},
    }


def _parsing(side: Side, prompts: list[Prompt]) -> dict[str, float]:
    check: ParseCheck = check_parsing(
        (prompt.messages[-1].content, text, rollout.ended)
        for prompt, text, rollout in zip(prompts, side.texts, side.rollouts, strict=True)
    )
    return {
        "share": check.share,
        "ended": check.ended,
        "ended_share": check.ended_parsing / max(check.ended, 1),
        "cut": check.cut,
        "cut_share": check.cut_parsing / max(check.cut, 1),
    }


@torch.no_grad()
def summed_log_probs(model: Transformer, rollouts: list[Rollout], temperature: float, pad: int) -> Tensor:
    """[B], float64 on the CPU: of every rollout the sum over its written tokens of log-probabilities, nats."""
    sums = torch.zeros(len(rollouts), dtype=torch.float64)
    for start in range(0, len(rollouts), ROWS_AT_ONCE):
        padded = pad_rollouts(rollouts[start : start + ROWS_AT_ONCE], pad, model.output_weight.device)
        hidden = model(padded.ids)[padded.rows, padded.columns]
        found = target_log_probs(hidden, model.output_weight, padded.targets, temperature)
        sums.index_add_(0, padded.owners.cpu() + start, found.cpu().double())
    return sums


def perplexity(model: Transformer, rollouts: list[Rollout], pad: int) -> float:
    """exp of the mean over response tokens of -log-probability under `model`, at temperature 1."""
    tokens = sum(len(rollout.written_places) for rollout in rollouts)
    return float(torch.exp(-summed_log_probs(model, rollouts, 1.0, pad).sum() / max(tokens, 1)))


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


def _samples(prompts: list[Prompt], sides: Sides, scores: Scores, config: EvaluateConfig) -> list[dict[str, Any]]:
    """Every n-th prompt: nothing is chosen by how it looks."""
    every = max(1, len(prompts) // config.shown)
    return [
        {
            "prompt": prompts[index].messages[-1].content if config.form == "chat" else prompts[index].query,
            "name": prompts[index].name,
            **{
                name: {
                    "text": _shown(side.answers[index], config),
                    **{reward: _or_null(scores[reward][name][index]) for reward in REWARDS},
                }
                for name, side in sides.items()
            },
        }
        for index in range(0, every * config.shown, every)
        if index < len(prompts)
    ]


def _shown(answer: Answer, config: EvaluateConfig) -> str:
    """The text; of one that was cut, code to its last whole line."""
    if answer.ended:
        return answer.response
    return (answer.response if config.form == "text" else cut_at_last_line(answer.response)) + " …"
