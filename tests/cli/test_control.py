"""`trine control` and `trine control play` from the command line; the report of runs."""

from pathlib import Path

from tests.conftest import Command

QUICK = ("--total_steps", "4096", "--environments", "4", "--evaluation_episodes", "3")


def test_an_agent_is_trained_played_and_reported(tmp_path: Path, command: Command) -> None:
    for algorithm in ("actor_critic", "ppo"):
        out = str(tmp_path / algorithm)
        code, _, words = command("control", "CartPole-v1", "--algorithm", algorithm, "--out", out, *QUICK)
        assert code == 0 and "3 fresh episodes, deterministic actions: return" in words
    assert (tmp_path / "ppo" / "film.gif").stat().st_size > 1000

    code, returns, words = command("control", "play", str(tmp_path / "ppo"), "--episodes", "2", "--show", "none")
    assert code == 0 and len([float(line) for line in returns.split()]) == 2
    assert "CartPole-v1: 2 episodes, return" in words

    film = tmp_path / "another.gif"
    code, _, _ = command("control", "play", str(tmp_path / "ppo"), "--episodes", "1", "--film", str(film))
    assert code == 0 and film.read_bytes().startswith(b"GIF")

    code, text, _ = command("report", str(tmp_path))
    assert code == 0 and "CartPole-v1" in text and "actor-critic" in text and "PPO" in text
    page = (tmp_path / "report.html").read_text()
    assert "data:image/gif;base64," in page and "REINFORCE" not in page

    code, text, _ = command("report", str(tmp_path / "ppo"))
    assert code == 0 and "actor-critic" not in text


def test_mistakes_are_named(tmp_path: Path, command: Command) -> None:
    for arguments, expected in (
        (("control", "CartPole-v9", "--out", str(tmp_path / "run")), "'CartPole-v9' with options {} cannot be created"),
        (("control", "CartPole-v1", "--algorithm", "reinforce", "--epochs", "3"), "epochs=3"),
        (("control", "CartPole-v1", "--gama", "0.9"), "did you mean 'gamma'?"),
        (("control", "play", str(tmp_path)), "holds no agent"),
        (("report", str(tmp_path / "nowhere")), "holds neither recipe.json"),
    ):
        code, _, words = command(*arguments)
        assert code == 2 and expected in words, words


def test_the_same_command_again_does_nothing(tmp_path: Path, command: Command) -> None:
    arguments = ("control", "CartPole-v1", "--out", str(tmp_path / "run"), *QUICK, "--film", "false")
    assert command(*arguments)[0] == 0
    before = (tmp_path / "run" / "done.json").stat().st_mtime_ns
    code, _, words = command(*arguments)
    assert code == 0 and "rollouts of" not in words
    assert (tmp_path / "run" / "done.json").stat().st_mtime_ns == before
    code, _, words = command(*arguments, "--gamma", "0.9")
    assert code == 2 and "gamma: 0.99 → 0.9" in words
