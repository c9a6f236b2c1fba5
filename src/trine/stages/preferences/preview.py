"""Over-optimisation before PPO: best of n by one reward, seen by another that did not choose (Gao et al. 2022).

A reward is a stand-in for what is wanted, and whoever maximises it leaves what it was learned from. Choosing the best
of n samples maximises it without training anything: at log n - (n - 1) / n nats from the policy it gives as much reward
as is to be had there, nearly (Beirami et al. 2024). What another reward model makes of the same choices is how much of
that is real, and where it stops rising is how much KL to spend.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.catalog.rewards import open_reward
from trine.config.preview import PreviewConfig
from trine.config.rewards import RewardSum, parts_of
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import Answer
from trine.rewards.base import CanBeTried, Reward
from trine.rewards.mixture import leaves
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.progress import progress_bar, say
from trine.runtime.seeds import derive_seed, generator_for
from trine.stages.preferences.preview_figures import Scores, preview_figures
from trine.stages.rl.prompts import Prompt, read_prompts
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.stage_run import StageRun, stage_run

ANSWERS_SCORED_AT_ONCE = 256
Floats = NDArray[np.float64]


@stage_run("model", "adapter", "reward", "other", "prompts")
def run(config: PreviewConfig, stage: StageRun) -> dict[str, Any]:
    """Sample answers, score them by both rewards; write answers.jsonl and the figures."""
    rewards = [open_reward(name, stage.hardware, config.closed) for name in (config.reward, config.other)]
    policy, tokenizer = stage.open_model(config.model, config.adapter)
    form = answer_format(tokenizer, config.form)
    room = policy.config.context - config.max_new_tokens
    prompts = _chosen(read_prompts(config.prompts, form, room, config.query_tokens, config.seed), config)
    tried = [Answer(each.messages, "An answer.", columns=each.columns, query=each.query) for each in prompts]
    for each in (part for reward in rewards for part in leaves(reward)):
        if isinstance(each, CanBeTried):
            each.try_out(tried)
    answers = sampled_answers(policy, prompts, form, config)
    reward, other = (
        scored(name, each, answers, tokenizer)
        for name, each in zip((config.reward, config.other), rewards, strict=True)
    )
    write_jsonl(stage.path / "answers.jsonl", _rows(answers, reward, other))
    # A reward may not apply to an answer (NaN): such a prompt is left out.
    applied = [bool(np.isfinite(both).all()) for both in zip(reward, other, strict=True)]
    if not any(applied):
        raise TrineError("for every prompt one of the two rewards says that it does not apply to some of the answers")
    texts = [[each.response for each in group] for group, kept in zip(answers, applied, strict=True) if kept]
    left_out = applied.count(False)
    return preview_figures(Scores(reward[applied], other[applied], texts)) | {"left_out": left_out}


def sampled_answers(
    policy: Transformer, prompts: Sequence[Prompt], form: Chat | TextFormat, config: PreviewConfig
) -> list[list[Answer]]:
    """`samples` answers to each of the prompts."""
    say(f"preview: {len(prompts)} prompts, {config.samples} answers each")
    sampling = Sampling(
        config.max_new_tokens, config.temperature, derive_seed(config.seed, "preview"), eos_ids=form.end_ids
    )
    count = len(prompts) * config.samples
    with progress_bar("sampling", count) as bar:
        rollouts = Engine(policy, rows=min(config.rows, count)).generate(
            [prompt.ids for prompt in prompts], sampling, samples=config.samples, on_finished=bar.advance_or_stop
        )
    answers = [prompts[rollout.prompt_index].answer(rollout, form) for rollout in rollouts]
    return [answers[start : start + config.samples] for start in range(0, count, config.samples)]


def _rows(answers: Sequence[Sequence[Answer]], reward: Floats, other: Floats) -> list[dict[str, Any]]:
    """Every answer with both scores; null where a reward does not apply."""
    return [
        {"prompt": place, "response": answer.response, "ended": answer.ended}
        | {name: float(score) if np.isfinite(score) else None for name, score in (("reward", a), ("other", b))}
        for place, (group, *both) in enumerate(zip(answers, reward, other, strict=True))
        for answer, a, b in zip(group, *both, strict=True)
    ]


def _chosen(prompts: Sequence[Prompt], config: PreviewConfig) -> list[Prompt]:
    """At most `max_prompts` different ones, chosen by seed: an answer to a prompt that stands twice is no other's."""
    different = list({prompt.ids: prompt for prompt in prompts}.values())
    if not config.max_prompts or len(different) <= config.max_prompts:
        return different
    order = generator_for(config.seed, "preview prompts").permutation(len(different))[: config.max_prompts]
    return [different[place] for place in sorted(order.tolist())]


def scored(name: str | RewardSum, reward: Reward, answers: Sequence[Sequence[Answer]], tokenizer: Tokenizer) -> Floats:
    """[P, N] scores of all answers by the reward called `name`."""
    flat = [each for group in answers for each in group]
    longest = max(len(each.prompt_ids) + len(each.response_ids) for each in flat)
    for part, named in zip(leaves(reward), parts_of(name), strict=True):
        if isinstance(part, ModelReward):
            part.check_reads(tokenizer, longest, named.name)
    scores: list[float] = []
    with progress_bar(f"scoring by {name}", len(flat)) as bar:
        size = max(1, ANSWERS_SCORED_AT_ONCE // len(answers[0])) * len(answers[0])  # whole groups
        for start in range(0, len(flat), size):
            at_once = flat[start : start + size]
            scores += reward.score(at_once).tolist()
            bar.advance_or_stop(len(at_once))
    return np.asarray(scores, np.float64).reshape(len(answers), -1)
