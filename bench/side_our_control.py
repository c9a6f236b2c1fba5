"""PPO on a control task, as `trine control` runs it: environments, agent, updates, log, checkpoints; no evaluation."""

import tempfile
import time
from pathlib import Path

import trine
from bench.protocol import Reply, options, serve
from trine.config.base import HardwareConfig
from trine.config.control import ControlConfig
from trine.stages.control.control import run

THREADS = options()["threads"] or 1


def learn(
    environment: str, copies: int, rollout_steps: int, epochs: int, minibatches: int, steps: int, seed: int
) -> Reply:
    """Make an agent and let it learn from `steps` steps."""
    with tempfile.TemporaryDirectory(prefix="trine-bench-") as folder:
        config = ControlConfig(
            environment=environment, environments=copies, rollout_steps=rollout_steps, epochs=epochs,
            minibatches=minibatches, total_steps=steps, seed=seed, out=Path(folder) / "run", evaluation_episodes=0,
            film=False, normalize_advantages="minibatch",
            hardware=HardwareConfig(device="cpu", precision="fp32", threads=THREADS),
        )  # fmt: skip
        started = time.perf_counter()
        run(config)
        return {"seconds": time.perf_counter() - started, "steps": steps}


if __name__ == "__main__":
    serve({"trine": trine.__version__, "threads": THREADS}, learn)
