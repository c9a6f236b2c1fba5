"""Scores of mean 0 and variance 1 over what the policy writes before PPO (Ziegler et al. 2019, section 2.1).

The statistics are those of fresh samples of the reference policy on the stage's prompts, scored as PPO scores them,
cut ones too. The rejected answers would not do: the reward model was trained to score these, and no others, low.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from trine.algorithms.text_ranking import normalization
from trine.algorithms.text_statistics import mean_median_deviation
from trine.config.preferences import RewardConfig
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.heads import ScoreModel
from trine.model.transformer import Transformer
from trine.records import Answer, Form, Message
from trine.rewards.model import ModelReward
from trine.runtime.errors import TrineError
from trine.runtime.progress import progress_bar, say
from trine.runtime.seeds import derive_seed, generator_for
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat, answer_format
from trine.tokenizer.tokenizer import Tokenizer
from trine.training.stage_run import StageRun

ROWS = 256


@dataclass(frozen=True)
class Normalization:
    """What was done to the scores, gain * score + offset, and on how many samples; how many ended by themselves."""

    gain: float = 1.0
    offset: float = 0.0
    samples: int = 0
    ended_share: float = 0.0


def normalize(
    model: ScoreModel, tokenizer: Tokenizer, prompts: Sequence[Answer], config: RewardConfig, stage: StageRun
) -> Normalization:
    """Scale the scores of `model` to mean 0 and variance 1 over fresh samples of the reference policy.

    `prompts`: answers to them, of which only the conversation or the query is looked at.
    """
    names = (config.reference, None) if config.reference else (config.model, config.adapter)
    policy, policy_tokenizer = stage.open_model(*names)
    context = min(policy.config.context, model.trunk.config.context)
    answers = fresh_answers(policy, policy_tokenizer, prompts, config, context, model.form)
    scores = ModelReward(model, tokenizer).score(answers)
    gain, offset = normalization(scores)
    before = mean_median_deviation(scores.tolist())
    model.normalize(gain, offset)
    ended = sum(answer.ended for answer in answers) / len(answers)
    say(
        f"reward: over {len(answers)} fresh samples of the policy ({ended:.0%} ended) scores were "
        f"{before['mean']:.3g} ± {before['deviation']:.3g}, now 0 ± 1"
    )
    return Normalization(gain, offset, len(answers), ended)


def fresh_answers(
    policy: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Answer],
    config: RewardConfig,
    context: int,
    form: Form = "chat",
) -> list[Answer]:
    """Samples on the prompts that leave room for an answer, each as often as any other, in an order of the seed's."""
    written = answer_format(tokenizer, form)
    asked = dict.fromkeys((answer.prompt, answer.query) for answer in prompts)
    opened = [_Opened(tuple(_prompt_ids(written, *each)), *each) for each in asked]
    fitting = [each for each in opened if each.ids and len(each.ids) + config.max_new_tokens <= context]
    if not fitting:
        raise TrineError(
            f"no prompt of the training records leaves room for max_new_tokens={config.max_new_tokens} within "
            f"{context} tokens, so that the scores cannot be normalized on samples: lower it, or set normalize=off"
        )
    order = generator_for(config.seed, "normalization prompts").permutation(len(fitting)).tolist()
    chosen = [fitting[order[place % len(order)]] for place in range(config.normalization_samples)]
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        seed=derive_seed(config.seed, "normalization"),
        eos_ids=written.end_ids,
    )
    with progress_bar("normalizing", len(chosen)) as bar:
        engine = Engine(policy, rows=min(ROWS, len(chosen)))
        rollouts = engine.generate([each.ids for each in chosen], sampling, on_finished=bar.advance_or_stop)
    return [
        Answer(
            each.messages, written.text(rollout.response_ids), rollout.ended, rollout.prompt_ids, rollout.response_ids,
            tokenizer.fingerprint, query=each.query,
        )
        for each, rollout in zip(chosen, rollouts, strict=True)
    ]  # fmt: skip


@dataclass(frozen=True)
class _Opened:
    """A prompt as token ids, and as what it is."""

    ids: tuple[int, ...]
    messages: tuple[Message, ...]
    query: str | None


def _prompt_ids(written: Chat | TextFormat, messages: tuple[Message, ...], query: str | None) -> list[int]:
    return written.query_ids(query or "") if isinstance(written, TextFormat) else written.prompt_ids(messages)
