"""Train an agent in a Gymnasium environment: REINFORCE (Williams 1992), actor-critic (Mnih et al. 2016) or PPO
(Schulman et al. 2017), by the functions of `algorithms/` that write text too.

An iteration: play a rollout in all copies, take values and log-probabilities from the networks that are about to learn
(in the very minibatches of the first pass, so that the first ratio is exactly 1), estimate advantages; then epochs x
minibatches of updates. The three algorithms are one objective: REINFORCE has no critic and counts only steps whose
episode it surely sees to the end; actor-critic takes one update from a rollout; PPO several, clipped.
`docs/policy-gradients.md` walks through it.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from trine.agents.distributions import Distribution
from trine.agents.environments import Environments, environment_sources
from trine.agents.episodes import play_episodes
from trine.agents.folder import AgentDescription, Player, build, save_agent
from trine.agents.network import ActorInference, Agent, initialize
from trine.agents.normalization import Moments, RewardScale, standardized
from trine.agents.rollouts import Trajectories, collect, complete_episodes, compute_advantages
from trine.agents.spaces import BoxActions
from trine.algorithms.masked import explained_variance, masked_whiten
from trine.catalog.loading import open_hardware
from trine.config.control import ControlConfig
from trine.records import Term
from trine.runtime.device import numpy_threads
from trine.runtime.errors import TrineError
from trine.runtime.progress import say
from trine.runtime.seeds import derive_seed, generator_for, seed_torch
from trine.stages.control.results import evaluate_agent, film_agent
from trine.stages.policy_gradient import POLICY_TERMS, policy_terms, value_term
from trine.training.iterations import IterationObjective
from trine.training.loop import Loop
from trine.training.run_folder import RunFolder, open_run


@dataclass(frozen=True)
class TrainingBatch:
    """What the updates of an iteration learn from; every tensor has one row for each of the steps that count."""

    observations: Tensor
    actions: Tensor
    old_log_probs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    def ordered(self, order: Tensor) -> "TrainingBatch":
        return TrainingBatch(*(getattr(self, name)[order] for name in self.__dataclass_fields__))

    def part(self, rows: slice) -> "TrainingBatch":
        return TrainingBatch(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.actions)


class ControlObjective(IterationObjective[TrainingBatch]):
    """The loss of a minibatch of steps; the first step of an iteration plays the rollout."""

    name = "control"

    def __init__(
        self, agent: Agent, environments: Environments, description: AgentDescription, config: ControlConfig,
        device: torch.device,
    ) -> None:  # fmt: skip
        super().__init__(config.epochs, config.minibatches)
        self.agent, self.environments, self.config, self.device = agent, environments, config, device
        self.description = description
        self.rollout_steps = _rollout_steps(config, environments.time_limit)
        self.distribution: Distribution = environments.actions.distribution
        self.playing = ActorInference(agent)
        self.moments = Moments(environments.observation_size) if config.normalize_observations else None
        self.reward_scale = RewardScale(config.environments, config.gamma) if config.normalize_rewards else None
        self._next_scale: RewardScale | None = None
        self.unseen: Trajectories | None = None
        self.training_batch: TrainingBatch | None = None
        self._shuffled: TrainingBatch | None = None

    # The loop's side

    def start_iteration(self, iteration: int) -> None:
        """Play a rollout, and compute everything that stays fixed during the iteration's updates."""
        self.training_batch = self._collect(iteration)

    def micro_batches(self, iteration: int, epoch: int, minibatch: int) -> list[TrainingBatch]:
        """One part of the iteration's steps, in an order of the epoch's own."""
        assert self.training_batch is not None
        if minibatch == 0:
            self._shuffled = self.training_batch.ordered(self._order(iteration, epoch, len(self.training_batch)))
        assert self._shuffled is not None
        return [self._shuffled.part(self._slices(len(self._shuffled))[minibatch])]

    def _order(self, iteration: int, epoch: int, count: int) -> Tensor:
        """A fresh permutation for every pass."""
        return torch.from_numpy(generator_for(self.config.seed, "minibatch", iteration, epoch).permutation(count))

    def _slices(self, count: int) -> list[slice]:
        """`count` rows in minibatches that differ by one row at most."""
        edges = [count * part // self.config.minibatches for part in range(self.config.minibatches + 1)]
        return [slice(*pair) for pair in pairwise(edges)]

    def counts(self, batch: TrainingBatch) -> dict[str, float]:
        return dict.fromkeys((*POLICY_TERMS, "value"), float(len(batch)))

    def terms(self, batch: TrainingBatch) -> dict[str, Term]:
        config = self.config
        outputs, values = self.agent(batch.observations)
        log_probs, entropy = self.distribution.log_probs_and_entropy(outputs, batch.actions)
        advantages = batch.advantages
        if config.normalize_advantages == "minibatch":
            advantages = standardized(advantages)
        terms = policy_terms(log_probs, entropy, batch.old_log_probs, advantages, config)
        if self.agent.has_critic:
            terms["value"] = value_term(values, batch.old_values, batch.returns, config)
        return terms

    def evaluate(self, final: bool) -> dict[str, Any]:
        """Returns of fresh episodes now and then; the last ones are played from the folder that was written."""
        if final or not self.config.evaluation_episodes:
            return {}
        player = Player(self.agent, self.moments, self.distribution, deterministic=True)
        count, seed = self.config.evaluation_episodes, derive_seed(self.config.seed, "evaluation")
        try:
            episodes = play_episodes(self.description, player, count, seed, may_stop=False)
        except TrineError as error:
            say(f"   not measured: {error}", style="yellow")
            return {}
        return {"deterministic_return": fmean(episode.total for episode in episodes)}

    def state(self) -> dict[str, Any]:
        """Of between two iterations: where the copies are, and the moments with all that was seen."""
        self._take_in()
        return {
            "copies": self.environments.state(),
            "moments": None if self.moments is None else self.moments.state(),
            "reward_scale": None if self.reward_scale is None else self.reward_scale.state(),
            "scaled_actions": self.description.scaled_actions,
        }

    def restore(self, state: dict[str, Any]) -> None:
        actions = self.environments.actions
        if isinstance(actions, BoxActions) and not (actions.as_sampled or state.get("scaled_actions")):
            raise TrineError(
                f"{self.config.out} was begun by an earlier Trine, whose agents act in the units of "
                f"{self.config.environment} instead of its range; it cannot go on: give another --out"
            )
        if self.config.resume == "exact":
            self.environments.replay(state["copies"])
        else:
            self.environments.start_next_episodes(state["copies"])
            state = state | {"reward_scale": _without_returns(state["reward_scale"])}
        if self.moments is not None:
            self.moments.restore(state["moments"])
        if self.reward_scale is not None:
            self.reward_scale.restore(state["reward_scale"])

    # An iteration's rollout

    def _collect(self, iteration: int) -> TrainingBatch:
        """Play, and compute everything that stays fixed during the iteration's updates."""
        config = self.config
        self._take_in()
        self.playing.refresh()
        generator = generator_for(config.seed, "actions", iteration)
        noise = self.distribution.noise(generator, self.rollout_steps, config.environments)
        rollout = collect(self.environments, self._act_on, self.distribution, noise)
        rewards = rollout.rewards
        if self.reward_scale is not None:
            self._next_scale = self.reward_scale.after(rewards, rollout.ends)
            rewards = self._next_scale.scaled(rewards)
        batch = self._training_batch(rollout, torch.from_numpy(rewards).float().reshape(-1))
        self.unseen = rollout
        self._observe(iteration, rollout, batch)
        return self._whitened(self._with_old_log_probs(batch, iteration))

    def _take_in(self) -> None:
        """The last rollout's observations and rewards, now that its updates are over; not if all were dropped."""
        if self.unseen is None:
            return
        if self.moments is not None and self.accepted:
            self.moments.add(self.unseen.observations.reshape(-1, self.environments.observation_size))
        if self.reward_scale is not None and self._next_scale is not None:
            self.reward_scale = self._next_scale if self.accepted else self.reward_scale.without_returns()
        self.unseen = None

    def _act_on(self, observations: Any) -> Any:
        return self.playing.policy(observations if self.moments is None else self.moments.normalized(observations))

    def _inputs(self, observations: Any) -> Tensor:
        rows = observations.reshape(-1, self.environments.observation_size)
        return torch.from_numpy(rows if self.moments is None else self.moments.normalized(rows)).to(self.device)

    def _values(self, observations: Any) -> Tensor:
        values: Tensor = self.agent(self._inputs(observations))[1]
        return values.cpu()

    @torch.no_grad()
    def _training_batch(self, rollout: Trajectories, rewards: Tensor) -> TrainingBatch:
        """Steps, values, advantages and returns, on the networks' device; log-probabilities are to come."""
        config = self.config
        inputs, values = self._inputs(rollout.observations), self._values(rollout.observations)
        after = (self._values(rollout.truncated_observations), self._values(rollout.last_observations))
        advantages, returns = compute_advantages(
            rollout, rewards, values, after,
            gamma=config.gamma, gae_lambda=config.gae_lambda, bootstrap=config.truncation == "bootstrap",
        )  # fmt: skip
        actions = torch.from_numpy(rollout.actions.reshape(len(rewards), *rollout.actions.shape[2:]))
        batch = TrainingBatch(inputs, actions, torch.empty_like(values), values, advantages, returns)
        if config.algorithm == "reinforce":
            assert self.environments.time_limit is not None
            batch = batch.ordered(complete_episodes(rollout, self.environments.time_limit))
        return TrainingBatch(*(getattr(batch, name).to(self.device) for name in batch.__dataclass_fields__))

    @torch.no_grad()
    def _with_old_log_probs(self, batch: TrainingBatch, iteration: int) -> TrainingBatch:
        """From the minibatches of the first pass: other rows beside a row would change its last bits."""
        order = self._order(iteration, 0, len(batch))
        ordered = batch.ordered(order)
        for rows in self._slices(len(batch)):
            part = ordered.part(rows)
            outputs, _ = self.agent(part.observations)
            batch.old_log_probs[order[rows]] = self.distribution.log_probs_and_entropy(outputs, part.actions)[0]
        return batch

    def _whitened(self, batch: TrainingBatch) -> TrainingBatch:
        if self.config.normalize_advantages == "rollout":
            everything = torch.ones_like(batch.advantages, dtype=torch.bool)
            batch.advantages.copy_(masked_whiten(batch.advantages, everything))
        return batch

    def _observe(self, iteration: int, rollout: Trajectories, batch: TrainingBatch) -> None:
        steps = rollout.rewards.size
        self.observed = {
            "iteration": float(iteration),
            "environment_steps": float((iteration + 1) * steps),
            "used_share": len(batch) / steps,
            "episodes": float(len(rollout.episodes)),
        }
        if rollout.episodes:
            self.observed["episode_return"] = fmean(episode.total for episode in rollout.episodes)
            self.observed["episode_length"] = fmean(episode.length for episode in rollout.episodes)
        if self.agent.has_critic:
            everything = torch.ones_like(batch.returns, dtype=torch.bool)
            self.observed["explained_variance"] = explained_variance(batch.old_values, batch.returns, everything)


def _without_returns(reward_scale: dict[str, Any] | None) -> dict[str, Any] | None:
    """The scale with no episode begun."""
    return None if reward_scale is None else reward_scale | {"returns": [0.0 for _ in reward_scale["returns"]]}


def run(config: ControlConfig) -> Path:
    """Train; write `agent/`, the returns of fresh episodes, and a video of one if it can be rendered."""
    hardware, sources = open_hardware(config.hardware), environment_sources(config.environment)
    with numpy_threads(config.hardware.threads), open_run(config, sources, hardware=hardware) as folder:
        if folder.finished:
            return folder.path
        seed_torch(config.seed)
        environments = Environments(
            config.environment, config.environment_options, config.environments, derive_seed(config.seed, "training"),
            fresh=config.fresh_environments,
        )  # fmt: skip
        description = describe(config, environments)
        agent = build(description)
        initialize(agent, config.seed)
        objective = ControlObjective(agent.to(hardware.device), environments, description, config, hardware.device)
        try:
            results = _train(objective, folder)
        finally:
            environments.close()
        save_agent(folder.path / "agent", description, agent.cpu(), objective.moments)
        results |= evaluate_agent(folder.path, config.evaluation_episodes, derive_seed(config.seed, "evaluation"))
        if config.film:
            film_agent(folder.path, derive_seed(config.seed, "film"))
        folder.finish(results)
        say(f"   to watch it: trine control play {folder.path}; its curves: trine report {folder.path}")
    return folder.path


def _train(objective: ControlObjective, folder: RunFolder) -> dict[str, Any]:
    config, steps = objective.config, objective.rollout_steps
    iterations = _iterations(config, steps)
    updates = objective.steps_per_iteration
    say(
        f"control: {config.algorithm} on {config.environment}, {iterations} rollouts of {config.environments} x "
        f"{steps} steps, {updates} {'update' if updates == 1 else 'updates'} each"
    )
    agent = objective.agent
    Loop(
        objective, agent, [_optimizer(agent, config)], iterations * updates, (config.loop, config.optimizer), folder,
        log_every=updates,
    ).train()  # fmt: skip
    objective.state()  # the moments take in the last rollout
    return {"environment_steps": iterations * config.environments * steps}


def _optimizer(agent: nn.Module, config: ControlConfig) -> torch.optim.Optimizer:
    optimizer = config.optimizer
    group = {"params": list(agent.parameters()), "peak": optimizer.learning_rate}
    return torch.optim.AdamW(
        [group], betas=(optimizer.beta1, optimizer.beta2), eps=optimizer.epsilon, weight_decay=0.0,
        fused=True,
    )  # fmt: skip


def describe(config: ControlConfig, environments: Environments) -> AgentDescription:
    """What the agent of `config` has to be for its environment."""
    distribution = environments.actions.distribution
    return AgentDescription(
        environment=config.environment,
        environment_options=config.environment_options,
        observations=environments.observation_size,
        outputs=distribution.outputs,
        continuous=environments.actions.continuous,
        critic=config.algorithm != "reinforce",
        hidden=config.hidden,
        scaled_actions=environments.actions.continuous,
    )


def _rollout_steps(config: ControlConfig, time_limit: int | None) -> int:
    """Steps of each copy in a rollout; REINFORCE has to see whole episodes."""
    if config.rollout_steps is None and time_limit is not None:
        return 2 * time_limit
    if time_limit is None and (config.algorithm == "reinforce" or config.rollout_steps is None):
        raise TrineError(
            f"{config.environment} has no time limit, and {config.algorithm} with "
            f"rollout_steps={config.rollout_steps} needs one to know that it sees whole episodes: register the "
            "environment with max_episode_steps, or use ppo"
        )
    assert config.rollout_steps is not None
    if config.algorithm == "reinforce" and config.rollout_steps < (time_limit or 0):
        raise TrineError(
            f"rollout_steps={config.rollout_steps} is less than the {time_limit} steps an episode of "
            f"{config.environment} may take; reinforce learns from whole episodes: give at least that, or null for "
            "twice as many"
        )
    return config.rollout_steps


def _iterations(config: ControlConfig, rollout_steps: int) -> int:
    size = rollout_steps * config.environments
    if config.total_steps < size:
        raise TrineError(
            f"total_steps={config.total_steps} is less than one rollout of {config.environments} x {rollout_steps} "
            "steps; raise it, or lower environments or rollout_steps"
        )
    if config.minibatches > size:
        raise TrineError(
            f"minibatches={config.minibatches} is more than the {config.environments} x {rollout_steps} steps of a "
            "rollout; lower it, or raise rollout_steps"
        )
    return config.total_steps // size
