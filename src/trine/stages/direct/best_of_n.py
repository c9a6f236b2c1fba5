"""Best-of-n fine-tuning (RAFT, Dong et al. 2023): the baseline that every method of preference learning has to beat.

Of n samples to each prompt the one that a reward scores highest becomes an example; `trine finetune` learns from those.
Only answers that ended by themselves can be the best: an example teaches where an answer ends. The same answers are
written as pairs and with thumbs too, which `trine dpo` learns from: methods side by side, at equal samples.
"""

import math
from collections.abc import Iterator, Sequence
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
    """Sample, score, and write the best answers as train.jsonl, best and worst as pairs.jsonl, all as thumbs.jsonl."""
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
    given = prompts, answers, scores
    best = best_rows(*given, keep_cut=config.keep_cut)
    if not best:
        raise TrineError("no sampled answer ended within the budget; raise max_new_tokens or fine-tune longer")
    pairs, thumbs = (make(*given, keep_cut=config.keep_cut) for make in (pair_rows, thumb_rows))
    for name, rows in (("train", best), ("pairs", pairs), ("thumbs", thumbs)):
        write_jsonl(stage.path / f"{name}.jsonl", rows)
    say(
        f"best_of_n: {len(best)} examples of {len(prompts)} prompts, each the best of {config.samples}; "
        f"{len(pairs)} pairs, {len(thumbs)} thumbs"
    )
    return {
        "examples": len(best), "prompts": len(prompts), "none_ended": len(prompts) - len(best), "pairs": len(pairs),
        "thumbs": {"up": sum(row["label"] for row in thumbs), "down": sum(not row["label"] for row in thumbs)},
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


def usable_places(answers: Sequence[Answer], scores: Tensor, *, keep_cut: bool) -> list[int]:
    """Of the answers to one prompt those to learn from, the worst first; of equals the last: not empty, scored, and
    ended by themselves unless cut ones count too."""
    values: list[float] = scores.tolist()
    usable = [
        place
        for place, answer in enumerate(answers)
        if (answer.ended or keep_cut) and answer.response.strip() and not math.isnan(values[place])
    ]
    return sorted(usable, key=lambda place: (values[place], -place))


def best_rows(
    prompts: Sequence[Prompt], answers: Sequence[Answer], scores: Tensor, *, keep_cut: bool = False
) -> list[dict[str, Any]]:
    """For each prompt the record of its best usable answer, its score beside it; none where no answer is usable.

    `answers` are those to the first prompt, then to the second, ...; `scores` [prompts, samples].
    """
    found = []
    for prompt, of_prompt, given, usable in _by_prompt(prompts, answers, scores, keep_cut):
        answer, score = of_prompt[usable[-1]], float(given[usable[-1]])
        found.append(_example(prompt, answer) | {"score": score} | _cut(answer))
    return found


def pair_rows(
    prompts: Sequence[Prompt], answers: Sequence[Answer], scores: Tensor, *, keep_cut: bool = False
) -> list[dict[str, Any]]:
    """For each prompt the pair of its best and its worst usable answer, where their scores differ."""
    found = []
    for prompt, of_prompt, given, usable in _by_prompt(prompts, answers, scores, keep_cut):
        if given[usable[-1]] == given[usable[0]]:
            continue
        row = _asked(prompt)
        for name, place in (("chosen", usable[-1]), ("rejected", usable[0])):
            row |= {name: of_prompt[place].response, f"score_{name}": float(given[place])}
            row |= {} if of_prompt[place].ended else {f"{name}_ended": False}
        found.append(row)
    return found


def thumb_rows(
    prompts: Sequence[Prompt], answers: Sequence[Answer], scores: Tensor, *, keep_cut: bool = False
) -> list[dict[str, Any]]:
    """Every usable answer with a thumb, up where it scores above the mean of those to its prompt."""
    found = []
    for prompt, of_prompt, given, usable in _by_prompt(prompts, answers, scores, keep_cut):
        if given[usable[-1]] == given[usable[0]]:
            continue
        mean = float(given[usable].mean())
        for place in sorted(usable):
            answer, score = of_prompt[place], float(given[place])
            row = _asked(prompt) | {"response": answer.response, "label": score > mean, "score": score}
            found.append(row | _cut(answer))
    return found


def _by_prompt(
    prompts: Sequence[Prompt], answers: Sequence[Answer], scores: Tensor, keep_cut: bool
) -> Iterator[tuple[Prompt, Sequence[Answer], Tensor, list[int]]]:
    """Each prompt that has a usable answer, with its answers, their scores and the usable ones' places."""
    samples = scores.shape[1]
    for number, prompt in enumerate(prompts):
        of_prompt = answers[number * samples : (number + 1) * samples]
        usable = usable_places(of_prompt, scores[number], keep_cut=keep_cut)
        if usable:
            yield prompt, of_prompt, scores[number], usable


def _cut(answer: Answer) -> dict[str, Any]:
    return {} if answer.ended else {"ended": False}


def _asked(prompt: Prompt) -> dict[str, Any]:
    """The prompt as a record has it, with the other fields of its own."""
    taken = ("response", "text", "prompt", "label", "score", "chosen", "rejected", "ended")
    kept = {name: value for name, value in prompt.columns.items() if name not in taken}
    asked = prompt.query if prompt.query is not None else [asdict(message) for message in prompt.messages]
    return {**kept, "prompt": asked}


def _example(prompt: Prompt, answer: Answer) -> dict[str, Any]:
    """As finetune reads it: a conversation with its answer, or a whole text."""
    row = _asked(prompt)
    if prompt.query is None:
        return row | {"response": answer.response}
    row.pop("prompt")
    return row | {"text": prompt.query + answer.response}
