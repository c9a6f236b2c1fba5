"""4.9: a module that the user names is found in the working directory, by the installed command too."""

import subprocess
import sys
from pathlib import Path

import pytest

from trine.agents.environments import make_environment
from trine.config.stage import follow
from trine.rewards.function import import_function
from trine.runtime.importing import import_module

ENVIRONMENT = """
import gymnasium, numpy
class Task(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)
    def reset(self, *, seed=None, options=None): return numpy.zeros(2, "float32"), {}
    def step(self, action): return numpy.zeros(2, "float32"), 1.0, True, False, {}
gymnasium.register("WorkingDirectory-v0", Task)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory that Python does not search, as under the installed command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    return tmp_path


def test_a_reward_an_environment_and_a_stage_are_found_in_the_working_directory(here: Path) -> None:
    """4.9: wherever package.module:name is given."""
    (here / "my_reward_49.py").write_text("def length(prompts, responses): return [len(each) for each in responses]\n")
    (here / "my_envs_49.py").write_text(ENVIRONMENT)
    (here / "my_package_49").mkdir()
    (here / "my_package_49" / "stage.py").write_text("def run(config): return config\n")
    assert import_function("my_reward_49:length").name == "my_reward_49:length"
    make_environment("my_envs_49:WorkingDirectory-v0", {}).close()
    assert follow("my_package_49.stage:run")(3) == 3


@pytest.mark.parametrize("name", ["colorsys", "yaml.tokens", "this"])
def test_a_stray_file_shadows_no_installed_package(here: Path, name: str) -> None:
    """4.9: what is installed goes first; the working directory comes last."""
    (here / f"{name.split('.', maxsplit=1)[0]}.py").write_text("raise AssertionError('a stray file was imported')\n")
    sys.modules.pop(name, None)
    assert str(here) not in str(import_module(name).__file__)


def test_the_installed_command_finds_them_too(here: Path) -> None:
    """4.9: `-P` keeps the working directory off the path, as the installed command does."""
    (here / "my_reward_49.py").write_text("def length(prompts, responses): return [1.0 for each in responses]\n")
    script = "from trine.runtime.importing import import_module as i; print(i('my_reward_49').length([''], ['']))"
    source = str(Path(__file__).parents[2] / "src")
    run = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, env={"PYTHONPATH": source}
    )
    assert run.stdout == "[1.0]\n"
