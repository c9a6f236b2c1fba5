"""Whole episodes of a finished agent: which ones count is settled beforehand; films; agents on disk."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image

from tests.agents import toys
from trine.agents import episodes as episodes_module
from trine.agents.environments import Environments
from trine.agents.episodes import SIDE_BY_SIDE, play_episodes, write_film
from trine.agents.folder import AgentDescription, Player, build, load_agent, save_agent
from trine.agents.network import initialize
from trine.agents.normalization import Moments
from trine.runtime.errors import TrineError


def description(name: str = "Walk-v0", *, continuous: bool = False, **changes: Any) -> AgentDescription:
    values: dict[str, Any] = {
        "environment": f"trine-test/{name}", "environment_options": {}, "observations": 1 if "C" in name else 2,
        "outputs": 4 if continuous else 2, "continuous": continuous, "critic": True, "hidden": (8,),
    }  # fmt: skip
    return AgentDescription(**values | changes)


def player(about: AgentDescription, *, deterministic: bool = False, moments: Moments | None = None) -> Player:
    agent = build(about)
    initialize(agent, 0)
    return Player(agent, moments, about.distribution, deterministic=deterministic)


def test_the_episodes_that_count_are_the_first_ones_of_every_copy_however_long() -> None:
    about = description()
    played = play_episodes(about, player(about), SIDE_BY_SIDE + 5, seed=0)
    assert len(played) == SIDE_BY_SIDE + 5
    assert [sum(episode.copy == copy for episode in played) for copy in range(SIDE_BY_SIDE)] == [2] * 5 + [1] * (
        SIDE_BY_SIDE - 5
    )
    assert len({episode.length for episode in played}) > 1


def test_a_seed_plays_the_same_episodes_again_and_another_others() -> None:
    about = description()
    first, again, other = (play_episodes(about, player(about), 4, seed) for seed in (0, 0, 1))
    assert first == again != other


def test_an_environment_that_never_ends_an_episode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episodes_module, "MAX_EPISODE_STEPS", 100)
    about = description("Ends-v0", observations=1, environment_options={"ends_after": None})
    with pytest.raises(TrineError, match=r"trine-test/Ends-v0: an episode did not end within 100 steps"):
        play_episodes(about, player(about), 2, seed=0)


def test_the_likeliest_action_needs_no_chance_and_observations_are_normalized() -> None:
    about = description()
    moments = Moments(2)
    moments.add(np.array([[0.0, 0.0], [20.0, 40.0]]))
    plain, normalizing = player(about, deterministic=True), player(about, deterministic=True, moments=moments)
    observations = np.array([[10.0, 20.0]], np.float32)
    noise = np.full((1, 2), np.nan, np.float32)
    assert plain.act(observations, noise).shape == (1,)
    centred = normalizing.actor.policy(moments.normalized(observations))
    assert np.array_equal(normalizing.act(observations, noise), centred.argmax(1))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("name", ["Walk-v0", "Glide-v0"])
def test_an_agent_comes_back_from_its_folder(name: str, normalized: bool, tmp_path: Path) -> None:
    about = description(name, continuous=name == "Glide-v0")
    agent = build(about)
    initialize(agent, 3)
    moments = Moments(2) if normalized else None
    if moments is not None:
        moments.add(np.random.default_rng(0).normal(size=(9, 2)))
    save_agent(tmp_path / "agent", about, agent, moments)
    found, loaded, restored = load_agent(tmp_path)
    assert found == about and torch.equal(loaded.weights, agent.weights)
    assert (restored and restored.state()) == (moments and moments.state())


def test_folders_that_hold_no_agent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrineError, match="holds no agent: give the run folder of a finished `trine control`"):
        load_agent(tmp_path)
    about = description()
    save_agent(tmp_path / "agent", about, build(about), None)
    (tmp_path / "agent" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(TrineError, match="is not a folder written by `trine control`"):
        load_agent(tmp_path)


def test_an_agent_is_not_let_into_another_environment() -> None:
    about = description(outputs=3)
    with pytest.raises(TrineError, match=r"has 2 numbers in an observation and 2 outputs.*trained for 2 .* 3 outputs"):
        play_episodes(about, player(about), 1, seed=0)


def test_an_agent_of_discrete_actions_is_not_let_where_they_are_real() -> None:
    about = description("Glide-v0", outputs=4)
    with pytest.raises(TrineError, match=r"4 outputs for real actions; the agent.*4 outputs for discrete actions"):
        play_episodes(about, player(about), 1, seed=0)


def test_a_film_shows_the_episode_frame_by_frame(tmp_path: Path) -> None:
    about = description("Cut-v0", observations=1)
    total = write_film(tmp_path / "film.gif", about, player(about), seed=0)
    assert total == 6.0
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.n_frames, film.size, film.info["duration"]) == (4, (300, 225), 100)


def test_a_window_that_needs_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def reset(self: toys.Count, **options: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(toys.Count, "reset", reset)
    about = description("Cut-v0", observations=1)
    with pytest.raises(TrineError, match=r"trine-test/Cut-v0 cannot be rendered: .*pip install 'trine\[control\]'"):
        list(episodes_module.frames(about, player(about), 0, "rgb_array"))


def test_what_cannot_be_rendered_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toys.Count, "metadata", {"render_modes": []})
    about = description("Cut-v0", observations=1)
    with pytest.raises(TrineError, match="trine-test/Cut-v0 cannot be rendered: it has no render mode rgb_array"):
        write_film(tmp_path / "film.gif", about, player(about), seed=0)


def test_environments_are_closed_when_they_are_done_with(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(Environments, "close", lambda self: closed.append(len(self.copies)))
    about = description()
    play_episodes(about, player(about), 3, seed=0)
    assert closed == [3]
