"""Samples the responses of an iteration, each process its share of the prompts.

A response depends on the weights, its prompt and its number in the iteration alone, so that neither the number of
processes nor the parts that a batch is sampled in change what is sampled. Groups are never divided.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from trine.config.rl import PpoConfig
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.transformer import Transformer
from trine.records import Answer, Rollout
from trine.runtime.distributed import World
from trine.runtime.seeds import derive_seed
from trine.stages.language_modelling import whole_model
from trine.stages.rl.exchange import gather_rollouts
from trine.stages.rl.prompts import Prompt, choose_prompts
from trine.stages.rl.turns import further_turns
from trine.stages.rl.user import import_user
from trine.tokenizer.chat_format import Chat
from trine.tokenizer.text_format import TextFormat


class Sampler:
    """One engine, which takes over the policy's weights before each `iteration`."""

    def __init__(
        self, policy: Transformer, prompts: Sequence[Prompt], chat: Chat | TextFormat, config: PpoConfig, world: World
    ) -> None:
        self.policy, self.prompts, self.chat, self.config, self.world = policy, prompts, chat, config, world
        self.user = import_user(config.user) if config.user else None
        rows = config.batch_size // world.size
        tokenizer = chat.tokenizer if config.stop_strings else None
        self.engine = Engine(self._whole_policy(), rows=rows, tokenizer=tokenizer)

    def iteration(self, iteration: int, on_part: Callable[[list[Answer]], None]) -> list[Rollout]:
        """The responses of all processes. `on_part` is given this process's own, as rewards see them, in
        `reward_overlap` parts, each before the next is sampled."""
        config = self.config
        groups = config.batch_size // config.samples_per_prompt
        prompts = choose_prompts(self.prompts, groups, iteration, config.seed)
        self.refresh()
        first, count = self.world.share(groups, "batch_size / samples_per_prompt")
        seed, own = derive_seed(config.seed, "rollout", iteration), list[Rollout]()
        for start, stop in _parts(first, first + count, max(config.reward_overlap, 1)):
            found, asked = self.respond(prompts[start:stop], seed, start, config.samples_per_prompt)
            on_part(self.answers(found, asked))
            own += found
        return gather_rollouts(self.world, own)

    def respond(
        self, prompts: Sequence[Prompt], seed: int, first: int = 0, samples: int = 1
    ) -> tuple[list[Rollout], list[Prompt]]:
        """`samples` responses to each of `prompts`, of which the first is number `first`, and the prompt of each.

        In a conversation of several turns that is the prompt of the last.
        """
        config = self.config
        sampling = Sampling(
            max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=seed, eos_ids=self.chat.end_ids,
            stop_strings=config.stop_strings,
        )  # fmt: skip
        ids = [prompt.ids for prompt in prompts]
        rollouts = self.engine.generate(ids, sampling, samples=samples, first=first)
        asked = [prompt for prompt in prompts for _ in range(samples)]
        if self.user is None or isinstance(self.chat, TextFormat):
            return rollouts, asked
        return further_turns(self.engine, self.chat, rollouts, asked, sampling, self.user, config.max_turns)

    def answers(self, rollouts: Sequence[Rollout], prompts: Sequence[Prompt]) -> list[Answer]:
        """Rollouts as rewards see them."""
        stops = self.config.stop_strings
        return [prompt.answer(one, self.chat, stops) for one, prompt in zip(rollouts, prompts, strict=True)]

    def refresh(self) -> None:
        """Take over the policy's weights as they are now; every process calls this."""
        self.engine.load(self._whole_policy())

    def _whole_policy(self) -> Transformer:
        whole = whole_model(self.policy)
        return whole if whole is self.policy else whole.to(_device(self.policy))


def _device(model: Transformer) -> torch.device:
    return model.output_weight.device


def _parts(start: int, stop: int, parts: int) -> list[tuple[int, int]]:
    """`start` to `stop` in at most `parts` parts that differ by one at most; none is empty."""
    count = stop - start
    edges = [start + count * part // parts for part in range(parts + 1)]
    return [(a, b) for a, b in pairwise(edges) if a < b]
