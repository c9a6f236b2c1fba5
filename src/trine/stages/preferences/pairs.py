"""Step 3a: preferences without a labeller: what a person wrote against what the fine-tuned model samples.

Nothing but content may tell the two sides apart. Both go through one function, `written`: encoded and decoded by the
same tokenizer, without blank lines around, at most the token budget with its end token, and not empty. A sample that
ran out of budget has no end of its own and makes no pair; nor does a person's answer longer than it. Both are counted.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from trine.catalog.exchanges import read_exchanges
from trine.config.preferences import PreferencesConfig
from trine.data.files import write_preferences
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.records import Example, PreferencePair
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar, say
from trine.runtime.seeds import derive_seed, generator_for
from trine.tokenizer.chat_format import Chat, chat_format
from trine.training.stage_run import StageRun, stage_run

MISMATCH_CANDIDATES = 8


@stage_run("model", "adapter", "examples", "held_out")
def run(config: PreferencesConfig, stage: StageRun) -> dict[str, Any]:
    """Sample answers and write train.jsonl and held_out.jsonl of preference pairs."""
    model, tokenizer = stage.open_model(config.model, config.adapter)
    engine, chat = Engine(model, rows=config.rows), chat_format(tokenizer)
    everything = _chosen(read_exchanges(config.examples), config)
    examples = as_written(everything, chat, config.max_new_tokens)
    if not examples:
        raise TrineError(
            f"{config.examples}: none of {len(everything)} responses has at most "
            f"max_new_tokens={config.max_new_tokens} tokens, which is what a sampled answer may have; raise it"
        )
    train, left_out = sampled_pairs(engine, chat, examples * config.samples, config, "train")
    mismatched = mismatched_pairs(examples, config)
    train += mismatched
    held_out_examples = (
        as_written(read_exchanges(config.held_out), chat, config.max_new_tokens) if config.held_out else []
    )
    held_out, _ = sampled_pairs(engine, chat, held_out_examples * config.held_out_samples, config, "held_out")
    if not train:
        raise TrineError("no sampled answer ended within the budget; raise max_new_tokens or fine-tune longer")
    write_preferences(stage.path / "train.jsonl", train)
    write_preferences(stage.path / "held_out.jsonl", held_out)
    pairs = f"{len(train)} pairs to train on, {len(held_out)} held out"
    too_long = len(everything) - len(examples)
    say(
        f"preferences: {pairs}, {left_out} samples hit max_new_tokens, {too_long} responses are empty or longer than it"
    )
    return {
        "train": len(train), "held_out": len(held_out), "left_out": left_out, "mismatched": len(mismatched),
        "responses_left_out": too_long,
    }  # fmt: skip


def written(ids: Sequence[int], chat: Chat) -> str:
    """An answer's text in the one form that both sides of a pair have."""
    return chat.text(ids).strip("\n").rstrip()


def as_written(examples: Sequence[Example], chat: Chat, max_new_tokens: int) -> list[Example]:
    """Examples whose response a sample could have been: in the form of one, not empty, within the budget."""
    texts = [written(chat.response_ids(example.response, ended=False), chat) for example in examples]
    return [
        replace(example, response=text)
        for example, text in zip(examples, texts, strict=True)
        if fits(text, chat, max_new_tokens)
    ]


def fits(text: str, chat: Chat, max_new_tokens: int) -> bool:
    """Whether an answer is one that a pair may have: not empty, and within the budget as it will be encoded."""
    return bool(text) and len(chat.response_ids(text)) <= max_new_tokens


def _chosen(examples: list[Example], config: PreferencesConfig) -> list[Example]:
    """At most `max_prompts` of the examples, chosen by seed."""
    if not config.max_prompts or len(examples) <= config.max_prompts:
        return examples
    order = generator_for(config.seed, "prompts").permutation(len(examples))
    return [examples[index] for index in sorted(order[: config.max_prompts])]


def mismatched_pairs(examples: Sequence[Example], config: PreferencesConfig) -> list[PreferencePair]:
    """The person's answer against an answer to another prompt: of a few, the one nearest in length."""
    generator = generator_for(config.seed, "mismatch")
    chosen = generator.permutation(len(examples))[: round(config.mismatched_share * len(examples))]
    pairs = []
    for index in sorted(chosen.tolist()):
        example = examples[index]
        others = [examples[other] for other in generator.integers(len(examples), size=MISMATCH_CANDIDATES)]
        others = [other for other in others if other.response != example.response]
        if others:
            other = min(others, key=lambda other: abs(len(other.response) - len(example.response)))
            pairs.append(
                PreferencePair(example.prompt, example.response, other.response, name=example.name, group=example.group)
            )
    return pairs


def sampled_pairs(
    engine: Engine, chat: Chat, examples: Sequence[Example], config: PreferencesConfig, name: str
) -> tuple[list[PreferencePair], int]:
    """One pair per example whose sample ended by itself and differs from the person's answer; how many did not end."""
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=derive_seed(config.seed, "compare", name),
        eos_ids=chat.end_ids,
    )
    with progress_bar(f"sampling {name}", len(examples)) as bar:
        prompts = [chat.prompt_ids(example.prompt) for example in examples]
        rollouts = engine.generate(prompts, sampling, on_finished=bar.advance_or_stop)
    pairs = []
    for example, rollout in zip(examples, rollouts, strict=True):
        answer = written(rollout.response_ids, chat)
        # A sample may be of other tokens than its text is encoded to, and of fewer.
        if rollout.ended and fits(answer, chat, config.max_new_tokens) and answer != example.response:
            pairs.append(
                PreferencePair(example.prompt, example.response, answer, name=example.name, group=example.group)
            )
    return pairs, sum(not rollout.ended for rollout in rollouts)
