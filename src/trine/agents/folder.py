"""An agent on disk: `agent.json` describes environment and network, `model.safetensors` holds the weights."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trine.agents.distributions import Array, Categorical, Distribution, Normal
from trine.agents.environments import Environments
from trine.agents.network import ActorInference, Agent
from trine.agents.normalization import Moments
from trine.runtime.errors import TrineError
from trine.runtime.files import read_json, write_folder, write_json


@dataclass(frozen=True)
class AgentDescription:
    """What is needed to build an agent before its weights are loaded."""

    environment: str
    environment_options: dict[str, Any]
    observations: int
    outputs: int
    continuous: bool
    critic: bool
    hidden: tuple[int, ...]
    scaled_actions: bool = False
    """whether -1 and 1 are the edges of a bounded action (`BoxActions`); agents that do not say so act in its units"""

    @property
    def distribution(self) -> Distribution:
        return Normal(self.outputs // 2) if self.continuous else Categorical(self.outputs)


class Player:
    """A trained policy: observations in, actions out."""

    def __init__(
        self, agent: Agent, moments: Moments | None, distribution: Distribution, *, deterministic: bool
    ) -> None:
        self.actor, self.moments, self.distribution = ActorInference(agent), moments, distribution
        self.deterministic = deterministic

    def act(self, observations: Array, noise: Array) -> Array:
        """Actions for N observations; a stochastic policy samples them with `noise` [N, ...]."""
        inputs = observations if self.moments is None else self.moments.normalized(observations)
        outputs = self.actor.policy(inputs)
        return self.distribution.mode(outputs) if self.deterministic else self.distribution.sample(outputs, noise)


def save_agent(folder: Path, description: AgentDescription, agent: Agent, moments: Moments | None) -> None:
    """Save the agent into `folder`, atomically; raises `TrineError` where it could not act."""
    _refuse_broken(folder, agent, moments)

    def fill(aside: Path) -> None:
        normalization = None if moments is None else moments.state()
        write_json(aside / "agent.json", {**asdict(description), "normalization": normalization})
        weights = {name: tensor.detach().cpu().clone() for name, tensor in agent.named().items()}
        save_file(weights, aside / "model.safetensors")

    write_folder(folder, fill)


def load_agent(run: Path) -> tuple[AgentDescription, Agent, Moments | None]:
    """Load the agent of a run of `trine control`; raises `TrineError` if there is none."""
    folder = run / "agent" if (run / "agent").is_dir() else run
    if not (folder / "agent.json").exists():
        raise TrineError(f"{run} holds no agent: give the run folder of a finished `trine control`")
    values = read_json(folder / "agent.json")
    try:
        normalization = values.pop("normalization")
        description = AgentDescription(**values | {"hidden": tuple(values["hidden"])})
        agent = build(description)
        weights = load_file(folder / "model.safetensors")
        with torch.no_grad():
            for name, place in agent.named().items():
                place.copy_(weights.pop(name))
        moments = None if normalization is None else Moments(description.observations)
        if moments is not None:
            moments.restore(normalization)
    except (TypeError, KeyError, ValueError, AttributeError, RuntimeError, OSError, SafetensorError) as error:
        raise TrineError(f"{folder} is not a folder written by `trine control`: {error}") from None
    _refuse_broken(folder, agent, moments)
    return description, agent, moments


def _refuse_broken(folder: Path, agent: Agent, moments: Moments | None) -> None:
    """Raise `TrineError` where an agent, or what it is shown its observations by, is not finite: it cannot act."""
    finite = bool(agent.weights.isfinite().all())
    if moments is not None:
        finite = finite and bool(np.isfinite(moments.mean).all() and np.isfinite(moments.variance).all())
    if not finite:
        raise TrineError(f"the agent of {folder} has weights or moments that are not finite; it cannot act")


def build(description: AgentDescription) -> Agent:
    """The networks, not initialized."""
    return Agent(
        description.observations, description.outputs, description.hidden,
        continuous=description.continuous, critic=description.critic,
    )  # fmt: skip


def check_fits(description: AgentDescription, environments: Environments) -> None:
    """Raise `TrineError` if the spaces of an environment differ from those the agent was trained with."""
    actions = environments.actions
    found = (environments.observation_size, actions.distribution.outputs, actions.continuous)
    trained_for = (description.observations, description.outputs, description.continuous)
    if found != trained_for:
        now, then = (
            f"{size} numbers in an observation and {outputs} outputs for {'real' if continuous else 'discrete'} actions"
            for size, outputs, continuous in (found, trained_for)
        )
        raise TrineError(f"{description.environment} has {now}; the agent was trained for {then}")
