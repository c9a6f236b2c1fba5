"""Best-of-n fine-tuning (RAFT, Dong et al. 2023): the baseline that every method of preference learning has to beat.

Of n samples to each prompt the one that a reward scores highest becomes an example; `trine finetune` learns from those.
Only answers that ended by themselves can be the best: an example teaches where an answer ends.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from trine.algorithms.text_best_of_n import best_of_n_nats
from trine.algorithms.text_statistics import mean_median_deviation
from trine.catalog.rewards import open_reward
from trine.config.best_of_n import BestOfNConfig
from trine.data.files import write_examples
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.records import Answer, Example
from trine.rewards.function import FunctionReward
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar, say
from trine.runtime.seeds import derive_seed, generator_for
from trine.stages.rl.ppo import sample_answers
from trine.stages.rl.prompts import Prompt, read_prompt_records
from trine.tokenizer.chat_format import Chat, chat_format
from trine.training.stage_run import StageRun, stage_run


@stage_run("model", "adapter", "prompts", "reward")
def run(config: BestOfNConfig, stage: StageRun) -> dict[str, Any]:
    """Sample, score, and write the best answers as train.jsonl."""
    reward = open_reward(config.reward, stage.hardware, config.closed)
    if isinstance(reward, FunctionReward):
        reward.try_out(sample_answers(config.prompts))
    model, tokenizer = stage.open_model(config.model, config.adapter)
    chat = chat_format(tokenizer)
    records = _chosen(read_prompt_records(config.prompts), config)
    asked = [Prompt(tuple(chat.prompt_ids(record.prompt)), record.prompt, record.columns) for record in records]
    room = model.config.context - config.max_new_tokens
    fitting = [place for place, prompt in enumerate(asked) if len(prompt.ids) <= room]
    if not fitting:
        raise TrineError(
            f"{config.prompts}: no prompt leaves room for max_new_tokens={config.max_new_tokens} within "
            f"{model.config.context} tokens: lower it, or shorten the prompts"
        )
    answers = sampled_answers(Engine(model, rows=config.rows), chat, [asked[place] for place in fitting], config)
    scores = reward.score(answers).view(-1, config.samples)
    best = best_examples([records[place] for place in fitting], answers, scores, config.samples)
    if not best:
        raise TrineError("no sampled answer ended within the budget; raise max_new_tokens or fine-tune longer")
    write_examples(stage.path / "train.jsonl", best)
    say(f"best_of_n: {len(best)} examples of {len(asked)} prompts, each the best of {config.samples}")
    return {
        "examples": len(best), "prompts": len(asked), "too_long": len(asked) - len(fitting),
        "none_ended": len(fitting) - len(best), "samples": config.samples,
        "ended_share": sum(answer.ended for answer in answers) / len(answers),
        "score": mean_median_deviation(scores.flatten().tolist()),
        "best_score": mean_median_deviation([example.columns["score"] for example in best]),
        "nats": best_of_n_nats(config.samples),
    }  # fmt: skip


def _chosen(records: list[Example], config: BestOfNConfig) -> list[Example]:
    """At most `max_prompts` of the records, chosen by seed."""
    if not config.max_prompts or len(records) <= config.max_prompts:
        return records
    order = generator_for(config.seed, "prompts").permutation(len(records))
    return [records[index] for index in sorted(order[: config.max_prompts])]


def sampled_answers(engine: Engine, chat: Chat, prompts: Sequence[Prompt], config: BestOfNConfig) -> list[Answer]:
    """`config.samples` answers to each prompt, prompt by prompt."""
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=derive_seed(config.seed, "best of n"),
        eos_ids=chat.end_ids,
    )
    repeated = [(place, prompt) for place, prompt in enumerate(prompts) for _ in range(config.samples)]
    with progress_bar("sampling", len(repeated)) as bar:
        rollouts = engine.generate([prompt.ids for _, prompt in repeated], sampling, on_finished=bar.advance_or_stop)
    return [
        replace(prompt.answer(rollout, chat), prompt_index=place)
        for (place, prompt), rollout in zip(repeated, rollouts, strict=True)
    ]


def best_examples(records: Sequence[Example], answers: Sequence[Answer], scores: Tensor, samples: int) -> list[Example]:
    """The highest-scoring answer to each record that ended and is not empty; of equals the first, which is any of them.

    `answers` are those to the first record, then to the second, ...; `scores` [records, samples]. The score becomes a
    column of the example. A record without such an answer gives none.
    """
    found = []
    for number, record in enumerate(records):
        of_record = answers[number * samples : (number + 1) * samples]
        usable = [place for place, answer in enumerate(of_record) if answer.ended and answer.response.strip()]
        if usable:
            best = max(usable, key=lambda place: float(scores[number, place]))
            columns = {name: value for name, value in record.columns.items() if name != "response"}
            columns["score"] = float(scores[number, best])
            found.append(replace(record, response=of_record[best].response, columns=columns))
    return found
