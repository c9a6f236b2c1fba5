"""PPO on control tasks beside Stable-Baselines3: the same environments, rollouts, epochs, minibatches and threads."""

from typing import Any

from bench.records import AS_OUR_COMMANDS, Case, Comparison, Contender, Side

SIDES = {
    "our control": Side("bench.side_our_control", {}, AS_OUR_COMMANDS),
    "stable-baselines3": Side("bench.side_stable_baselines", {}),
}
# Environment, copies, steps of a rollout, epochs, minibatches, and steps a turn.
SETTINGS: dict[str, tuple[str, int, int, int, int, int]] = {
    "CartPole-v1, 8 x 128": ("CartPole-v1", 8, 128, 4, 4, 20_480),
    "CartPole-v1, 4 x 128": ("CartPole-v1", 4, 128, 4, 4, 10_240),
    "CartPole-v1, 1 x 2048, its defaults": ("CartPole-v1", 1, 2048, 10, 32, 4_096),
    "Pendulum-v1, 4 x 512": ("Pendulum-v1", 4, 512, 10, 32, 8_192),
}
TARGET = 2.0


def control() -> list[Case]:
    """Of no shape: two hidden layers of 64, actor and critic apart, as both have them by default."""
    cases = []
    for name, (environment, copies, rollout_steps, epochs, minibatches, steps) in SETTINGS.items():
        asked: dict[str, Any] = {
            "environment": environment, "copies": copies, "rollout_steps": rollout_steps, "epochs": epochs,
            "minibatches": minibatches, "steps": steps,
        }  # fmt: skip
        ours, theirs = (Contender(side, "learn", asked) for side in SIDES)
        cases.append(Case("control", name, ours, (Comparison("Stable-Baselines3", (theirs,), TARGET),), counts="steps"))
    return cases
