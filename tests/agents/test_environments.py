"""Copies of an environment: last observations are kept, resets are functions of counters, and a stop can be undone."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.agents import toys
from trine.agents.environments import Environments, environment_sources, make_environment
from trine.runtime.errors import TrineError


def environments(name: str, copies: int = 1, seed: int = 0) -> Environments:
    return Environments(f"trine-test/{name}", {}, copies, seed)


@pytest.mark.parametrize(("name", "terminated"), [("Ends-v0", True), ("Cut-v0", False), ("EndsAtItsLimit-v0", True)])
def test_an_episode_that_ends_gives_its_last_observation_and_begins_anew_in_the_same_step(
    name: str, terminated: bool
) -> None:
    """One that terminates on the very step of its time limit has terminated."""
    played = environments(name)
    for count in (1, 2):
        step = played.step(np.array([0]))
        assert (step.rewards, step.ended, played.observations.tolist()) == ([float(count)], [], [[float(count)]])
    step = played.step(np.array([0]))
    ((copy, was_terminated, last),) = step.ended
    assert (step.rewards, copy, was_terminated, last.tolist()) == ([3.0], 0, terminated, [3.0])
    assert played.observations.tolist() == [[0.0]] and played.episodes == [1] and played.elapsed().tolist() == [0]
    (episode,) = played.take_finished()
    assert (episode.copy, episode.total, episode.length) == (0, 6.0, 3)
    assert played.take_finished() == []


def test_every_copy_and_every_episode_has_a_beginning_of_its_own_made_of_the_seed() -> None:
    first, again, other = environments("Walk-v0", 3), environments("Walk-v0", 3), environments("Walk-v0", 3, seed=1)
    assert np.array_equal(first.observations, again.observations)
    assert len(np.unique(np.concatenate((first.observations, other.observations)), axis=0)) == 6
    beginning = first.observations.copy()
    while not first.take_finished():
        first.step(np.array([1, 1, 1]))
    changed = [copy for copy in range(3) if first.episodes[copy] == 1]
    assert changed and all(not np.array_equal(first.observations[copy], beginning[copy]) for copy in changed)


def test_what_one_copy_is_made_to_do_does_not_move_another() -> None:
    one, two = environments("Walk-v0", 2), environments("Walk-v0", 2)
    for turn in range(30):
        one.step(np.array([0, turn % 2]))
        two.step(np.array([1, turn % 2]))
        assert np.array_equal(one.observations[1], two.observations[1])


@pytest.mark.parametrize("name", ["Walk-v0", "Glide-v0", "Hoarding-v0", "Rescaling-v0"])
def test_a_copy_goes_on_from_its_state_as_if_it_had_never_stopped(name: str) -> None:
    generator = np.random.default_rng(0)
    discrete = name in ("Walk-v0", "Hoarding-v0")
    actions = generator.integers(0, 2, (40, 3)) if discrete else generator.normal(size=(40, 3, 2))
    straight = environments(name, 3)
    for turn in range(25):
        straight.step(actions[turn])
    state = json.loads(json.dumps(straight.state()))
    resumed = environments(name, 3)
    resumed.replay(state)
    assert resumed.elapsed().tolist() == straight.elapsed().tolist() and 0 < resumed.elapsed().max() < 25
    straight.take_finished()
    for turn in range(25, 40):
        straight.step(actions[turn])
        resumed.step(actions[turn])
        assert np.array_equal(straight.observations, resumed.observations)
    assert straight.take_finished() == resumed.take_finished()
    assert straight.state() == resumed.state()


def test_without_fresh_copies_what_one_keeps_across_resets_is_seen_where_it_shows() -> None:
    played, again = (Environments("trine-test/Hoarding-v0", {}, 1, 0, fresh=False) for _ in range(2))
    while played.episodes[0] < 2 or played.lengths[0] < 6:
        played.step(np.array([1]))
    with pytest.raises(TrineError, match="trine-test/Hoarding-v0 does not reproduce"):
        again.replay(played.state())


def test_an_environment_that_does_not_reproduce_is_refused_by_name() -> None:
    played = environments("Forgetful-v0", 2)
    played.step(np.array([0, 1]))
    with pytest.raises(TrineError, match=r"trine-test/Forgetful-v0 does not reproduce.*copy 0 in its episode 0"):
        environments("Forgetful-v0", 2).replay(played.state())


def test_a_reward_that_does_not_reproduce_is_seen_too() -> None:
    played = environments("Walk-v0")
    played.step(np.array([1]))
    (state,) = played.state()
    with pytest.raises(TrineError, match="does not reproduce"):
        environments("Walk-v0").replay([state | {"total": state["total"] + 1e-9}])


def test_new_episodes_begin_after_those_of_the_stop() -> None:
    played = environments("Walk-v0", 2)
    state = played.state()
    played.start_next_episodes(state)
    assert played.episodes == [1, 1] and played.elapsed().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Grid-v0", r"trine-test/Grid-v0: observations are Box\(0.0, 1.0, \(2, 2\).*FlattenObservation"),
        ("TwoChoices-v0", r"trine-test/TwoChoices-v0: actions are MultiDiscrete"),
        ("Nowhere-v0", "environment 'trine-test/Nowhere-v0' with options {} cannot be created"),
    ],
)
def test_what_cannot_be_learned_is_refused_by_name(name: str, words: str) -> None:
    with pytest.raises(TrineError, match=words):
        environments(name)


def test_an_id_may_name_the_module_that_registers_it() -> None:
    assert Environments("tests.agents.toys:trine-test/Walk-v0", {}, 1, 0).observation_size == 2
    with pytest.raises(TrineError, match=r"environment 'no\.such\.module:Walk-v0' with options {} cannot be created"):
        make_environment("no.such.module:Walk-v0", {})


def test_whatever_a_constructor_raises_is_told_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: toys.Count, **options: object) -> None:
        raise AssertionError("gravity is out of range")

    monkeypatch.setattr(toys.Count, "__init__", refuse)
    with pytest.raises(
        TrineError, match=r"'trine-test/Cut-v0' with options {} cannot be created: gravity is out of range"
    ):
        make_environment("trine-test/Cut-v0", {})


def test_options_an_environment_does_not_take_are_refused() -> None:
    with pytest.raises(TrineError, match=r"'trine-test/Cut-v0' with options {'colour': 'red'} cannot be created"):
        make_environment("trine-test/Cut-v0", {"colour": "red"})


def test_a_discrete_space_may_start_anywhere_and_a_box_is_kept_within_its_edges() -> None:
    from trine.agents.spaces import BoxActions, DiscreteActions

    assert DiscreteActions(3, start=-1).for_environment(np.array([0, 2])) == [-1, 1]
    low, high = np.array([-1.0, 0.0], np.float32), np.array([1.0, 5.0], np.float32)
    (given,) = BoxActions(low, high).for_environment(np.array([[-3.0, 7.0]], np.float32))
    assert given.tolist() == [-1.0, 5.0] and given.dtype == np.float32


OWN = """
import gymnasium
import numpy as np


class Still(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (1,))
    action_space = gymnasium.spaces.Discrete(2)


if "Still-v0" not in gymnasium.registry:
    gymnasium.register("Still-v0", entry_point="still_of_mine:Still", max_episode_steps=5)
"""


def test_the_code_of_ones_own_environment_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.25 and its kind: an environment's id says nothing of its code; an installed one is known by its id."""
    monkeypatch.syspath_prepend(tmp_path)

    def sources(text: str) -> dict[str, str]:
        (tmp_path / "still_of_mine.py").write_text(text)
        sys.modules.pop("still_of_mine", None)
        importlib.invalidate_caches()
        return environment_sources("still_of_mine:Still-v0")

    first = sources(OWN)
    assert first.keys() == {"environment"} and sources(OWN) == first
    assert sources(OWN.replace("(2)", "(3)")) != first
    assert environment_sources("CartPole-v1") == {} == environment_sources("nowhere:No-v0")
