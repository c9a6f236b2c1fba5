"""PPO of Stable-Baselines3 on a control task: `make_vec_env` (synchronous) and `learn`, as its documentation has it."""

import time

import gymnasium
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from bench.protocol import Reply, options, serve

THREADS = options()["threads"] or 1
torch.set_num_threads(THREADS)


def learn(
    environment: str, copies: int, rollout_steps: int, epochs: int, minibatches: int, steps: int, seed: int
) -> Reply:
    """Make an agent and let it learn from `steps` steps."""
    started = time.perf_counter()
    environments = make_vec_env(environment, n_envs=copies, seed=seed)
    size = copies * rollout_steps // minibatches
    agent = PPO(
        "MlpPolicy", environments, n_steps=rollout_steps, n_epochs=epochs, batch_size=size, seed=seed, device="cpu"
    )
    agent.learn(steps)
    seconds = time.perf_counter() - started
    environments.close()
    return {"seconds": seconds, "steps": steps}


if __name__ == "__main__":
    versions = {"stable-baselines3": stable_baselines3.__version__, "gymnasium": gymnasium.__version__}
    serve(versions | {"threads": THREADS}, learn)
