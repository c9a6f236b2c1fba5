"""Best-of-n fine-tuning (RAFT, Dong et al. 2023): the baseline that every method of preference learning has to beat.

Of n samples to each prompt the one that a reward scores highest becomes an example; `trine finetune` learns from those.
Only answers that ended by themselves can be the best: an example teaches where an answer ends.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from trine.algorithms.text_best_of_n import best_of_n_nats
from trine.algorithms.text_statistics import mean_median_deviation
from trine.catalog.loading import open_tokenizer
from trine.catalog.rewards import open_reward
from trine.config.best_of_n import BestOfNConfig
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.records import Answer
from trine.rewards.base import CanBeTried
from trine.rewards.mixture import leaves
from trine.runtime.errors import TrineError
from trine.runtime.files import write_jsonl
from trine.runtime.progress import progress_bar, say
from trine.runtime.seeds import derive_seed, generator_for
from trine.stages.rl.prompts import Prompt, read_prompts
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.training.stage_run import StageRun, stage_run


@stage_run("model", "adapter", "prompts", "reward")
def run(config: BestOfNConfig, stage: StageRun) -> dict[str, Any]:
    """Sample, score, and write the best answers as train.jsonl."""
    reward = open_reward(config.reward, stage.hardware, config.closed)
    tokenizer, context = open_tokenizer(config.model, config.adapter)
    form = answer_format(tokenizer, config.form)
    room = context - config.max_new_tokens
    prompts = _chosen(read_prompts(config.prompts, form, room, config.query_tokens, config.seed), config)
    made_up = [Answer(each.messages, "An answer.", columns=each.columns, query=each.query) for each in prompts]
    for part in leaves(reward):
        if isinstance(part, CanBeTried):
            part.try_out(made_up)
    model = stage.open_model(config.model, config.adapter)[0]
    answers = sampled_answers(Engine(model, rows=config.rows), form, prompts, config)
    scores = reward.score(answers).view(-1, config.samples)
    best = best_rows(prompts, answers, scores)
    if not best:
        raise TrineError("no sampled answer ended within the budget; raise max_new_tokens or fine-tune longer")
    write_jsonl(stage.path / "train.jsonl", best)
    say(f"best_of_n: {len(best)} examples of {len(prompts)} prompts, each the best of {config.samples}")
    return {
        "examples": len(best), "prompts": len(prompts), "none_ended": len(prompts) - len(best),
        "samples": config.samples, "ended_share": sum(answer.ended for answer in answers) / len(answers),
        "score": mean_median_deviation(scores[~scores.isnan()].tolist()),
        "best_score": mean_median_deviation([row["score"] for row in best]), "nats": best_of_n_nats(config.samples),
    }  # fmt: skip


def _chosen(prompts: list[Prompt], config: BestOfNConfig) -> list[Prompt]:
    """At most `max_prompts` of the prompts, chosen by seed."""
    if not config.max_prompts or len(prompts) <= config.max_prompts:
        return prompts
    order = generator_for(config.seed, "prompts").permutation(len(prompts))
    return [prompts[index] for index in sorted(order[: config.max_prompts])]


def sampled_answers(
    engine: Engine, form: Chat | TextFormat, prompts: Sequence[Prompt], config: BestOfNConfig
) -> list[Answer]:
    """`config.samples` answers to each prompt, prompt by prompt."""
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=derive_seed(config.seed, "best of n"),
        eos_ids=form.end_ids,
    )
    repeated = [(place, prompt) for place, prompt in enumerate(prompts) for _ in range(config.samples)]
    with progress_bar("sampling", len(repeated)) as bar:
        rollouts = engine.generate([prompt.ids for _, prompt in repeated], sampling, on_finished=bar.advance_or_stop)
    return [
        replace(prompt.answer(rollout, form), prompt_index=place)
        for (place, prompt), rollout in zip(repeated, rollouts, strict=True)
    ]


def best_rows(prompts: Sequence[Prompt], answers: Sequence[Answer], scores: Tensor) -> list[dict[str, Any]]:
    """For each prompt the record of its best answer that ended, is not empty and has a score; of equals the first.

    `answers` are those to the first prompt, then to the second, ...; `scores` [prompts, samples]. The score is a field
    of the record. A prompt without such an answer gives none.
    """
    found = []
    samples = scores.shape[1]
    for number, prompt in enumerate(prompts):
        of_prompt = answers[number * samples : (number + 1) * samples]
        applies = ~scores[number].isnan()
        usable = [p for p, answer in enumerate(of_prompt) if answer.ended and answer.response.strip() and applies[p]]
        if usable:
            best = max(zip(scores[number, usable].tolist(), (-place for place in usable), strict=True))
            found.append(_record(prompt, of_prompt[-best[1]].response, best[0]))
    return found


def _record(prompt: Prompt, response: str, score: float) -> dict[str, Any]:
    """As finetune reads it: a conversation with its answer, or a whole text."""
    kept = {name: value for name, value in prompt.columns.items() if name not in ("response", "text", "prompt")}
    if prompt.query is not None:
        return {**kept, "text": prompt.query + response, "score": score}
    return {**kept, "prompt": [asdict(message) for message in prompt.messages], "response": response, "score": score}
