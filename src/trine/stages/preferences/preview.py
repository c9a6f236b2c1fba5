"""Over-optimisation before PPO: best of n by one reward, seen by another that did not choose (Gao et al. 2022).

A reward is a stand-in for what is wanted, and whoever maximises it leaves what it was learned from. Choosing the best
of n samples maximises it without training anything: at log n - (n - 1) / n nats from the policy it gives as much reward
as is to be had there, nearly (Beirami et al. 2024). What another reward model makes of the same choices is how much of
that is real, and where it stops rising is how much KL to spend.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trine.catalog.rewards import open_reward
from trine.config.preview import PreviewConfig
from trine.data.files import read_records
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import Answer
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.progress import progress_bar, say
from trine.runtime.seeds import derive_seed, generator_for
from trine.stages.preferences.preview_figures import Scores, preview_figures
from trine.stages.rl.prompts import read_prompts
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.stage_run import StageRun, stage_run

ANSWERS_SCORED_AT_ONCE = 256


@stage_run("model", "adapter", "reward", "other", "prompts")
def run(config: PreviewConfig, stage: StageRun) -> dict[str, Any]:
    """Sample answers, score them by both rewards; write answers.jsonl and the figures."""
    policy, tokenizer = stage.open_model(config.model, config.adapter)
    answers = sampled_answers(policy, tokenizer, config)
    reward, other = (_scored(name, answers, tokenizer, config, stage) for name in (config.reward, config.other))
    texts = [[answer.response for answer in group] for group in answers]
    rows = [
        {"prompt": place, "response": answer.response, "ended": answer.ended, "reward": float(a), "other": float(b)}
        for place, (group, *both) in enumerate(zip(answers, reward, other, strict=True))
        for answer, a, b in zip(group, *both, strict=True)
    ]
    write_jsonl(stage.path / "answers.jsonl", rows)
    # A reward may not apply to an answer (NaN): such a prompt is left out.
    applied = [bool(np.isfinite(both).all()) for both in zip(reward, other, strict=True)]
    if not any(applied):
        raise TrineError("for every prompt one of the two rewards says that it does not apply to some of the answers")
    texts = [group for group, kept in zip(texts, applied, strict=True) if kept]
    left_out = applied.count(False)
    return preview_figures(Scores(reward[applied], other[applied], texts)) | {"left_out": left_out}


def sampled_answers(policy: Transformer, tokenizer: Tokenizer, config: PreviewConfig) -> list[list[Answer]]:
    """`samples` answers to each of the chosen prompts."""
    form = answer_format(tokenizer, config.form)
    room = policy.config.context - config.max_new_tokens
    prompts = _text_prompts(form, room, config) if isinstance(form, TextFormat) else _chat_prompts(form, room, config)
    chosen = _chosen(prompts, config)
    say(f"preview: {len(chosen)} prompts, {config.samples} answers each")
    sampling = Sampling(
        config.max_new_tokens, config.temperature, derive_seed(config.seed, "preview"), eos_ids=form.end_ids
    )
    with progress_bar("sampling", len(chosen) * config.samples) as bar:
        engine = Engine(policy, rows=min(config.rows, len(chosen) * config.samples))
        rollouts = engine.generate(
            [prompt.prompt_ids for prompt in chosen], sampling, samples=config.samples, on_finished=bar.advance_or_stop
        )
    answers = [
        replace(
            chosen[rollout.prompt_index], response=form.text(rollout.response_ids), ended=rollout.ended,
            response_ids=rollout.response_ids, prompt_index=rollout.prompt_index,
        )
        for rollout in rollouts
    ]  # fmt: skip
    return [answers[start : start + config.samples] for start in range(0, len(answers), config.samples)]


def _chosen(prompts: Sequence[Answer], config: PreviewConfig) -> list[Answer]:
    """At most `max_prompts` different ones, chosen by seed: an answer to a prompt that stands twice is no other's."""
    different = list({prompt.prompt_ids: prompt for prompt in prompts}.values())
    if not config.max_prompts or len(different) <= config.max_prompts:
        return different
    order = generator_for(config.seed, "preview prompts").permutation(len(different))[: config.max_prompts]
    return [different[place] for place in sorted(order.tolist())]


def _chat_prompts(chat: Chat, max_prompt_tokens: int, config: PreviewConfig) -> list[Answer]:
    """Conversations to be answered, as answers that are still empty."""
    prompts = read_prompts(config.prompts, chat, max_prompt_tokens)
    known = chat.tokenizer.fingerprint
    return [Answer(prompt.messages, "", True, prompt.ids, (), known, prompt.columns) for prompt in prompts]


def _text_prompts(form: TextFormat, max_prompt_tokens: int, config: PreviewConfig) -> list[Answer]:
    """Plain texts to be continued."""
    found = []
    for place, row in read_records(config.prompts, ()):
        text = row.get("text", row.get("prompt"))
        if not isinstance(text, str):
            raise TrineError(f"{place}: with form=text a prompt is a record with `text`, or `prompt`, a string")
        columns = {key: value for key, value in row.items() if key not in ("text", "prompt")}
        found.append(
            Answer((), "", True, tuple(form.query_ids(text)), (), form.tokenizer.fingerprint, columns, query=text)
        )
    fitting = [prompt for prompt in found if 0 < len(prompt.prompt_ids) <= max_prompt_tokens]
    if not fitting:
        raise TrineError(
            f"{config.prompts}: none of {len(found)} texts leaves room for an answer: lower max_new_tokens, or shorten "
            "the texts"
        )
    if len(fitting) < len(found):
        say(f"{len(found) - len(fitting)} of {len(found)} texts are empty or too long and left out")
    return fitting


def _scored(
    name: str, answers: Sequence[Sequence[Answer]], tokenizer: Tokenizer, config: PreviewConfig, stage: StageRun
) -> NDArray[np.float64]:
    """[P, N] scores of all answers by the reward called `name`."""
    reward, flat = open_reward(name, stage.hardware, config.closed), [each for group in answers for each in group]
    if isinstance(reward, ModelReward):
        reward.check_reads(tokenizer, max(len(each.prompt_ids) + len(each.response_ids) for each in flat), name)
    scores: list[float] = []
    with progress_bar(f"scoring by {name}", len(flat)) as bar:
        for start in range(0, len(flat), ANSWERS_SCORED_AT_ONCE):
            part = flat[start : start + ANSWERS_SCORED_AT_ONCE]
            scores += reward.score(part).tolist()
            bar.advance_or_stop(len(part))
    return np.asarray(scores, np.float64).reshape(len(answers), -1)
