"""Step 4: proximal policy optimization against a reward, held near a reference by KL (Ziegler et al. 2019; Ouyang
et al. 2022).

An iteration: sample responses (engine), score them (reward), take log-probabilities and values of policy and
reference (trainer's own forward, in the very micro-batches of the first epoch, so that the first ratio is exactly 1),
place rewards, estimate advantages; then epochs x minibatches of clipped updates. Dropout does not exist
in Trine's models. Temperature is the same wherever a log-probability is taken.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trine.algorithms.ppo import clipped_policy_loss, clipped_value_loss
from trine.algorithms.text_kl import adapted_kl_coefficient, kl_loss
from trine.algorithms.text_log_probs import target_log_probs, token_log_probs
from trine.catalog.adapters import begin_lora, finish_lora
from trine.catalog.loading import open_hardware, open_model, open_score_model
from trine.catalog.locating import find_model
from trine.config.rl import PpoConfig
from trine.data.files import read_examples
from trine.engine.engine import Engine
from trine.engine.sampling import Sampling
from trine.model.folder import save_model, save_score_model
from trine.model.heads import PolicyWithValue, ScoreModel
from trine.model.lora import lora_off, merge_lora
from trine.model.transformer import Transformer
from trine.records import Rollout, Term
from trine.rewards.reward import ModelReward, Reward, import_function
from trine.runtime.errors import TrineError
from trine.runtime.files import write_folder
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, generator_for, seed_torch
from trine.stages.rl.experience import (
    Experience,
    Layout,
    advantages_of,
    final_scores,
    lay_out,
    response_mask,
    statistics_of,
)
from trine.tokenizer.chat_format import Chat, chat_format
from trine.training.loop import Loop
from trine.training.optimizers import make_optimizers
from trine.training.run_folder import fingerprint, open_run


class PpoObjective:
    """The four terms of PPO; a micro-batch is a list of rows of the current iteration's experience.

    `reference` may be the policy itself when that has LoRA adapters: its frozen base is what it started from.
    """

    name = "ppo"

    def __init__(
        self,
        model: PolicyWithValue,
        reference: Transformer,
        reward: Reward,
        prompts: list[list[int]],
        chat: Chat,
        config: PpoConfig,
    ) -> None:
        self.model, self.reference, self.reward, self.prompts = model, reference, reward, prompts
        self.chat, self.config = chat, config
        self.engine = Engine(model.policy, rows=config.batch_size)
        self.device = model.policy.output_weight.device
        self.kl_coefficient = self.next_kl_coefficient = config.kl.coefficient
        self.steps_per_iteration = config.epochs * (config.batch_size // config.minibatch_size)
        self.experience: Experience | None = None
        self.observed: dict[str, float] = {}
        self.policy_weight = 1.0

    # The loop's side

    def batches(self, step: int) -> Sequence[list[int]]:
        iteration, inner = divmod(step, self.steps_per_iteration)
        self.observed = {}
        self.policy_weight = 0.0 if iteration < self.config.critic_warmup else 1.0
        if inner == 0:
            self.kl_coefficient = self.next_kl_coefficient
            self.experience = self.collect(iteration)
            self._observe(iteration)
        assert self.experience is not None
        epoch, minibatch = divmod(inner, self.config.batch_size // self.config.minibatch_size)
        return self._micro_batches(iteration, epoch, self.experience.rollouts)[minibatch]

    def _micro_batches(self, iteration: int, epoch: int, rollouts: Sequence[Rollout]) -> list[list[list[int]]]:
        """Row numbers by minibatch and micro-batch, a fresh permutation every epoch.

        Within a minibatch rows are sorted by length, so that micro-batches hold little padding.
        """
        size, micro = self.config.minibatch_size, self.config.micro_batch_size
        order = generator_for(self.config.seed, "minibatch", iteration, epoch).permutation(len(rollouts)).tolist()
        lengths = [len(rollout.prompt_ids) + len(rollout.response_ids) for rollout in rollouts]
        minibatches = [
            sorted(order[start : start + size], key=lengths.__getitem__) for start in range(0, len(order), size)
        ]
        return [[rows[start : start + micro] for start in range(0, size, micro)] for rows in minibatches]

    def counts(self, batch: list[int]) -> dict[str, float]:
        assert self.experience is not None
        tokens = float(self.experience.mask[batch].sum())
        names = ("policy", "value", "entropy", "kl_loss", "clip_fraction", "approximate_kl")
        return dict.fromkeys(names, tokens)

    def terms(self, batch: list[int]) -> dict[str, Term]:
        assert self.experience is not None
        experience, config = self.experience, self.config
        log_probs, entropy, values = self._forward(self.layout([experience.rollouts[row] for row in batch]))
        flat = {
            name: experience.flat(getattr(experience, name), batch).to(self.device)
            for name in ("old_log_probs", "old_values", "reference_log_probs", "advantages", "returns")
        }
        policy = clipped_policy_loss(
            log_probs,
            flat["old_log_probs"],
            flat["advantages"],
            clip_range=config.clip_range,
            dual_clip_range=config.dual_clip_range,
        )
        value = clipped_value_loss(values, flat["old_values"], flat["returns"], clip_range=config.value_clip_range)
        terms = {
            "policy": Term(policy.loss, self.policy_weight),
            "value": Term(value, config.value_weight),
            "entropy": Term(entropy.sum(), -config.entropy_weight * self.policy_weight),
            "clip_fraction": Term(policy.clipped, weight=0.0),
            "approximate_kl": Term(policy.approximate_kl, weight=0.0),
            "peak_log_ratio": Term((log_probs - flat["old_log_probs"]).detach().abs().max(), 0.0, "max"),
        }
        if config.kl.in_loss != "none":
            penalty = kl_loss(log_probs, flat["old_log_probs"], flat["reference_log_probs"], config.kl.in_loss)
            terms["kl_loss"] = Term(penalty.sum(), self.kl_coefficient * self.policy_weight)
        return terms

    def evaluate(self, final: bool) -> dict[str, Any]:
        return {}

    def may_save(self, step: int) -> bool:
        return step % self.steps_per_iteration == 0

    def state(self) -> dict[str, Any]:
        return {"kl_coefficient": self.next_kl_coefficient}

    def restore(self, state: dict[str, Any]) -> None:
        self.next_kl_coefficient = float(state["kl_coefficient"])

    def observations(self) -> dict[str, float]:
        return self.observed

    def describe_batch(self, step: int) -> dict[str, Any]:
        return {"iteration": step // self.steps_per_iteration}

    # An iteration's experience

    def collect(self, iteration: int) -> Experience:
        """Sample, score, and compute everything that stays fixed during the iteration's updates."""
        config = self.config
        self.engine.refresh()
        rollouts = self.engine.generate(self._choose_prompts(iteration), self._sampling(iteration))
        scores = self.reward.score(rollouts, self.render)
        mask = response_mask(rollouts)
        old_log_probs, old_values, reference = (torch.zeros(mask.shape) for _ in range(3))
        with torch.no_grad():
            for rows in itertools.chain(*self._micro_batches(iteration, 0, rollouts)):
                layout = self.layout([rollouts[row] for row in rows])
                log_probs, _, values = self._forward(layout)
                _put(old_log_probs, mask, rows, log_probs)
                _put(old_values, mask, rows, values)
                _put(reference, mask, rows, self._reference_log_probs(layout))
        advantages, returns = advantages_of(
            final_scores(scores, rollouts, config.missing_eos_penalty, config.missing_eos_score),
            torch.where(mask, old_log_probs - reference, 0.0),
            old_values,
            mask,
            kl_coefficient=self.kl_coefficient if config.kl.in_loss == "none" else 0.0,
            gamma=config.gamma,
            gae_lambda=config.gae_lambda,
        )
        return Experience(rollouts, scores, mask, old_log_probs, old_values, reference, advantages, returns)

    def _choose_prompts(self, iteration: int) -> list[list[int]]:
        """The next prompts of an endless seeded sequence, reshuffled each time round."""
        size, count = self.config.batch_size, len(self.prompts)
        places = [divmod(index, count) for index in range(iteration * size, (iteration + 1) * size)]
        orders = {
            epoch: generator_for(self.config.seed, "prompts", epoch).permutation(count)
            for epoch in {epoch for epoch, _ in places}
        }
        return [self.prompts[int(orders[epoch][place])] for epoch, place in places]

    def _sampling(self, iteration: int) -> Sampling:
        return Sampling(
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=derive_seed(self.config.seed, "rollout", iteration),
            eos_ids=self.chat.end_ids,
        )

    def layout(self, rollouts: Sequence[Rollout]) -> Layout:
        return lay_out(rollouts, self.chat.tokenizer.pad, self.device)

    def _forward(self, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities, entropies and values [N] of the response tokens."""
        hidden, values = self.model(layout.ids, layout.rows, layout.columns)
        log_probs, entropy = token_log_probs(
            hidden, self.model.policy.output_weight, layout.targets, self.config.temperature
        )
        return log_probs, entropy, values

    def _reference_log_probs(self, layout: Layout) -> Tensor:
        with lora_off(self.reference):
            hidden = self.reference(layout.ids)[layout.rows, layout.columns]
        return target_log_probs(hidden, self.reference.output_weight, layout.targets, self.config.temperature)

    def render(self, rollout: Rollout) -> tuple[str, str]:
        return self.chat.tokenizer.decode(rollout.prompt_ids), self.chat.text(rollout.response_ids)

    def _observe(self, iteration: int) -> None:
        """Note the iteration's figures; the KL coefficient follows them in the next iteration."""
        assert self.experience is not None
        config = self.config
        self.observed = {"iteration": float(iteration), **statistics_of(self.experience)}
        self.observed["kl_coefficient"] = self.kl_coefficient
        if config.kl.target is not None:
            adapted = adapted_kl_coefficient(
                self.kl_coefficient, self.observed["kl"],
                target=config.kl.target, horizon=config.kl.horizon, episodes=config.batch_size,
            )  # fmt: skip
            self.next_kl_coefficient = max(config.kl.min_coefficient, adapted)


def _put(padded: Tensor, mask: Tensor, rows: Sequence[int], flat: Tensor) -> None:
    """Write flat [N] values of `rows` into their places of `padded` [B, R]."""
    chosen = list(rows)
    block = padded[chosen]
    block[mask[chosen]] = flat.cpu()
    padded[chosen] = block


def _check(config: PpoConfig) -> None:
    sizes = (
        ("batch_size", config.batch_size, "minibatch_size", config.minibatch_size),
        ("minibatch_size", config.minibatch_size, "micro_batch_size", config.micro_batch_size),
    )
    if config.critic_warmup and config.critic == "shared":
        raise TrineError(
            "critic_warmup needs a critic of its own: set critic to policy or reward, or critic_warmup to 0"
        )
    for name, size, part_name, part in sizes:
        if size % part:
            raise TrineError(f"{name}={size} is not a multiple of {part_name}={part}")


def open_reward(name: str, config: PpoConfig) -> Reward:
    """The reward model called `name`, or `package.module:function`."""
    if _is_function(name):
        return import_function(name)
    return ModelReward(*open_score_model(name, open_hardware(config.hardware)))


def _is_function(reward: str) -> bool:
    return ":" in reward and not Path(reward).exists()


def run(config: PpoConfig) -> Path:
    """Train; write `policy/` and `critic/` in Hugging Face form, LoRA adapters merged in, and those as `adapter/`."""
    _check(config)
    hardware = open_hardware(config.hardware)
    inputs = {"model": fingerprint(find_model(config.model)), "prompts": fingerprint(config.prompts)}
    inputs["reward"] = config.reward if _is_function(config.reward) else fingerprint(find_model(config.reward))
    with open_run(config, inputs) as folder:
        if folder.finished:
            return folder.path
        seed_torch(config.seed)
        policy, tokenizer = open_model(config.model, hardware)
        reference = policy if config.lora.rank else open_model(config.model, hardware)[0].requires_grad_(False)
        model = _with_critic(policy, config)
        chat = chat_format(tokenizer)
        prompts = _read_prompts(config, chat, policy.config.context - config.max_new_tokens)
        reward = open_reward(config.reward, config)
        if isinstance(reward, ModelReward):
            reward.check_reads(tokenizer, max(map(len, prompts)) + config.max_new_tokens, config.reward)
        objective = PpoObjective(model.to(hardware.device), reference, reward, prompts, chat, config)
        steps = config.iterations * objective.steps_per_iteration
        say(f"ppo: {config.iterations} iterations of {config.batch_size} responses, {steps} steps")
        optimizer = config.lora.optimizer(config.optimizer)
        optimizers = make_optimizers(model.named_parameters(), optimizer, policy.config, hardware.compute_dtype)
        Loop(objective, model, optimizers, steps, (config.loop, optimizer), folder).train()
        finish_lora(policy, folder.path / "adapter", config.model)
        merge_lora(model)  # a critic of its own has adapters too
        _write(folder.path, model, chat)
        folder.finish({"iterations": config.iterations, "kl_coefficient": objective.next_kl_coefficient})
    return folder.path


def _read_prompts(config: PpoConfig, chat: Chat, room: int) -> list[list[int]]:
    """Prompt ids; those too long to answer within the context are left out, and counted."""
    rendered = [chat.prompt_ids(example.prompt) for example in read_examples(config.prompts)]
    prompts = [ids for ids in rendered if len(ids) <= room]
    if not prompts:
        raise TrineError(f"{config.prompts}: no prompt leaves room for max_new_tokens={config.max_new_tokens}")
    if len(prompts) < len(rendered):
        say(f"ppo: {len(rendered) - len(prompts)} of {len(rendered)} prompts are too long and left out")
    return prompts


def _with_critic(policy: Transformer, config: PpoConfig) -> PolicyWithValue:
    """Policy and critic, each with adapters of its own where LoRA is asked for."""
    begin_lora(policy, config.lora, config.seed)
    if config.critic == "shared":
        return PolicyWithValue(policy)
    hardware = open_hardware(config.hardware)
    if config.critic == "policy":
        critic = open_model(config.model, hardware)[0]
    else:
        # Of the reward model only what it has learned to see: its head reads whole answers, and what it says of half
        # an answer misleads the policy (docs/LOG.md), so the values start at 0.
        critic = open_score_model(config.reward, hardware)[0].trunk
    begin_lora(critic, config.lora, derive_seed(config.seed, "critic"))
    return PolicyWithValue(policy, critic)


def _write(folder: Path, model: PolicyWithValue, chat: Chat) -> None:
    tokenizer = chat.tokenizer

    def fill_policy(aside: Path) -> None:
        save_model(model.policy, aside, eos_token_id=list(chat.end_ids), pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    def fill_critic(aside: Path) -> None:
        critic = ScoreModel(model.critic or model.policy)
        critic.head = model.value_head
        save_score_model(critic, aside, pad_token_id=tokenizer.pad)
        tokenizer.save(aside)

    write_folder(folder / "policy", fill_policy)
    write_folder(folder / "critic", fill_critic)
