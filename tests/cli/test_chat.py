"""`trine chat`: commands, what is said about answers, interrupts, and the file of a conversation."""

import io
import json
import random
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.terminal import Terminal
from tests.conftest import Command
from tests.mutations import mutations
from tests.tiny import tiny_model, tiny_tokenizer
from trine.cli.chat import COMMANDS, Session
from trine.cli.chat_input import LineInput
from trine.cli.conversation import Conversation
from trine.config.use import ChatConfig
from trine.model.folder import save_model
from trine.records import Message, StopReason
from trine.runtime.errors import TrineError
from trine.tokenizer.chat_format import chat_format

CPU = ("--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.threads", "1")
Script = Iterable[tuple[list[str], StopReason | type[BaseException]]]


@dataclass
class ScriptedWriter:
    """Stands where a model would: answers from a script, and keeps what it was asked."""

    script: list[tuple[list[str], StopReason | type[BaseException]]]
    context: int = 256
    tokenizer: Any = field(default_factory=tiny_tokenizer)
    prompts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def chat_budget(self, config: ChatConfig) -> int:
        return min(config.max_new_tokens, self.context // 2)

    def sampling(self, config: ChatConfig, ends: object, *, seed: int, budget: int) -> Any:
        self.seeds.append(seed)
        return SimpleNamespace(budget=budget)

    def pieces(self, ids: list[int], sampling: Any, stream: object) -> Generator[str, None, StopReason]:
        assert len(ids) + sampling.budget <= self.context
        self.prompts.append(self.tokenizer.decode(ids))
        pieces, end = self.script.pop(0)
        yield from pieces
        if isinstance(end, type):
            raise end("what went wrong")
        return end


class Talk:
    """A session with a scripted model."""

    def __init__(self, script: Script = (), *, context: int = 256, max_new_tokens: int = 16, **config: Any) -> None:
        self.writer = ScriptedWriter(list(script), context)
        settings = ChatConfig(model="any", max_new_tokens=max_new_tokens, **config)
        self.session = Session(settings, self.writer, Conversation(settings.system))  # type: ignore[arg-type]

    def __call__(self, *messages: str) -> None:
        for message in messages:
            self.session.take(message)

    @property
    def turns(self) -> list[str]:
        return [message.content for message in self.session.conversation.messages]


ANSWERS: Script = [([f"answer {number}"], "eos") for number in range(20)]


def test_commands_are_not_sent_to_the_model() -> None:
    """5.8: /help and the like are done, an unknown one is named, a doubled slash is sent as one."""
    talk = Talk(ANSWERS)
    talk("/help", "  /clear", "//usr/bin", "   ", "what is // for?")
    assert talk.turns == ["/usr/bin", "answer 0", "what is // for?", "answer 1"]
    for unknown in ("/", "/quitt", "/etc/passwd is a file", "/Help", "/systemtext"):
        with pytest.raises(TrineError, match="no command"):
            talk(unknown)
    assert len(talk.writer.prompts) == 2 and not talk.session.over
    talk("/exit")
    assert talk.session.over


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    Talk()("/help")
    words = capsys.readouterr().err
    assert all(command in words for command in COMMANDS) and "Ctrl-C" in words


def test_the_system_prompt_can_be_set_shown_and_removed(capsys: pytest.CaptureFixture[str]) -> None:
    """5.8: /system TEXT."""
    talk = Talk(ANSWERS, system="Be brief.")
    talk("one", "/system Be kind.\nAlways.", "/system", "two", "/clear", "three", "/system -", "four")
    words = capsys.readouterr().err
    assert words.count("(system prompt: Be kind.\nAlways.)") == 2 and "(no system prompt)" in words
    assert ["Be brief." in p for p in talk.writer.prompts] == [True, False, False, False]
    assert ["Be kind.\nAlways." in p for p in talk.writer.prompts] == [False, True, True, False]


def test_an_answer_is_written_again_with_other_numbers() -> None:
    """5.8: /regenerate takes the place of the last answer, and asks the same."""
    talk = Talk(ANSWERS)
    with pytest.raises(TrineError, match="no question yet"):
        talk("/regenerate")
    talk("one", "two", "/regenerate", "/regenerate")
    assert talk.turns == ["one", "answer 0", "two", "answer 3"]
    assert len(set(talk.writer.prompts[1:])) == 1 and len(set(talk.writer.seeds)) == 4


def test_a_cut_answer_is_told_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    """5.8: what the budget cut is said, with the way to go on, and nothing is said of a whole answer."""
    talk = Talk([(["Once upon", " a"], "length"), ([" time."], "eos")])
    talk("a story")
    assert "(cut after 16 tokens, --max_new_tokens raises that; /continue goes on)" in capsys.readouterr().err
    talk("/continue")
    assert talk.turns == ["a story", "Once upon a time."]
    assert talk.writer.prompts[1] == talk.writer.prompts[0] + "Once upon a"
    assert capsys.readouterr().err == ""
    with pytest.raises(TrineError, match="no answer to go on with"):
        Talk()("/continue")


def test_a_budget_that_the_context_sets_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    talk = Talk([(["so"], "length")], context=64, max_new_tokens=500)
    talk("go")
    assert "cut after 32 tokens, half of the model's context of 64" in capsys.readouterr().err


def test_turns_that_no_longer_fit_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """5.8: how many turns the model no longer sees, each time there are more; the conversation keeps all."""
    talk = Talk(ANSWERS, context=128)
    dropped = []
    for number in range(8):
        talk(f"the question of number {number}")
        dropped.append(sum(f"number {old}" not in talk.writer.prompts[-1] for old in range(number)))
    told = [f"the first {count} turn{'s' if count > 1 else ''};" for count in sorted(set(dropped) - {0})]
    assert len(told) > 2
    words = capsys.readouterr().err
    assert [words.count(each) for each in told] == [1] * len(told) and words.count("no longer sees") == len(told)
    assert len(talk.turns) == 16
    with pytest.raises(TrineError, match="shorten it"):
        talk("x " * 200)
    assert len(talk.turns) == 16


def test_an_interrupt_stops_the_answer_and_keeps_the_conversation(capsys: pytest.CaptureFixture[str]) -> None:
    """5.8: Ctrl-C; what is written is kept, and where nothing is, the conversation is as before."""
    talk = Talk([(["one ", "two"], KeyboardInterrupt), ([], KeyboardInterrupt), (["three"], "eos")])
    talk("count")
    assert "(stopped: what is written is kept" in capsys.readouterr().err and talk.turns == ["count", "one two"]
    talk("more")
    assert "(stopped: nothing was written" in capsys.readouterr().err and talk.turns == ["count", "one two"]
    talk("go on")
    assert talk.turns == ["count", "one two", "go on", "three"]


@pytest.mark.parametrize("command", ["another", "/regenerate", "/continue"])
def test_an_answer_that_fails_leaves_the_conversation_as_it_was(command: str) -> None:
    talk = Talk([(["fine"], "eos"), (["half"], TrineError)])
    talk("first")
    with pytest.raises(TrineError, match="what went wrong"):
        talk(command)
    assert talk.turns == ["first", "fine"]


def test_a_conversation_is_saved_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """5.8: /save writes the messages form, all of it, and --conversation takes it up again."""
    path = tmp_path / "talk.json"
    talk = Talk(ANSWERS, system="你好")
    with pytest.raises(TrineError, match="needs the name of a file"):
        talk("/save")
    talk("第一\n个问题", f"/save {path}", "second", "/save")
    roles = ["system", "user", "assistant", "user", "assistant"]
    rows = json.loads(path.read_text("utf-8"))["messages"]
    assert [row["role"] for row in rows] == roles and [row["content"] for row in rows[1:]] == talk.turns
    assert list(tmp_path.iterdir()) == [path]  # nothing half written beside it
    loaded = Conversation.load(path)
    assert (loaded.system, loaded.messages) == ("你好", talk.session.conversation.messages)
    path.write_text(json.dumps(rows))  # the list alone, as some write it
    assert Conversation.load(path) == loaded


def test_saving_replaces_no_other_file(tmp_path: Path) -> None:
    notes = tmp_path / "notes.json"
    notes.write_text("mine")
    talk = Talk(ANSWERS)
    talk("hello")
    with pytest.raises(TrineError, match=r"notes\.json exists; choose another name"):
        talk(f"/save {notes}")
    with pytest.raises(TrineError):
        talk(f"/save {notes}/below")
    assert notes.read_text() == "mine" and talk.turns == ["hello", "answer 0"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "message 2 is of the user"),
        ([{"role": "system", "content": "s"}, {"role": "assistant", "content": "b"}], "message 2 is of the assistant"),
        ([{"role": "tool", "content": "a"}], "message 1 must have a role"),
        ([{"role": "user", "content": [{"type": "text"}]}], "message 1 must have a role"),
        ([{"role": "user", "content": "\ud800"}], "message 1 has half of a surrogate pair"),
        (["a"], "message 1 must"),
        ({"turns": []}, "holds no conversation"),
    ],
)
def test_a_file_that_is_no_conversation_is_named(tmp_path: Path, rows: Any, words: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(TrineError, match=words) as error:
        Conversation.load(path)
    assert str(path) in str(error.value)


def test_a_damaged_conversation_is_read_whole_or_named(tmp_path: Path) -> None:
    """5.8: of 120 damaged copies each gives all messages, or an error with the file's name."""
    path = tmp_path / "talk.json"
    turns = [Message(("user", "assistant")[n % 2], f'message {n}: 你好 \\n "quoted"') for n in range(6)]
    whole = Conversation("Be brief.", turns)
    whole.save(path)
    for name, damaged in mutations(path.read_bytes(), seed=5, count=120):
        path.write_bytes(damaged)
        try:
            loaded = Conversation.load(path)
        except TrineError as error:
            assert str(path) in str(error), name
        else:
            assert len(loaded.messages) == 6 and loaded.system is not None, name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that writes bytes of all kinds."""
    folder = tmp_path_factory.mktemp("model")
    save_model(tiny_model("qwen3", vocab_size=320, context=8192), folder, eos_token_id=[0], pad_token_id=1)
    tiny_tokenizer().save(folder)
    return folder


Piped = Callable[..., tuple[int, str, str]]


@pytest.fixture
def piped(command: Command, model: Path, monkeypatch: pytest.MonkeyPatch) -> Piped:
    def call(data: bytes, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return command("chat", model, *CPU, *arguments)

    return call


def test_bytes_that_are_no_text_end_no_conversation(piped: Piped, tmp_path: Path) -> None:
    """3.6: named by line and byte; what was said before and after is answered and can be saved; the exit code tells."""
    path = tmp_path / "talk.json"
    data = b"hello\ncaf\xe9 au lait\nagain\n/save " + str(path).encode() + b"\n"
    code, answers, words = piped(data, "--max_new_tokens", 4)
    assert code == 2 and "line 2: not UTF-8 at byte 4 (0xe9)" in words and "1 of the messages could not be" in words
    rows = json.loads(path.read_text("utf-8"))["messages"]
    assert [row["content"] for row in rows[::2]] == ["hello", "again"]
    assert answers == "".join(row["content"] + "\n" for row in rows[1::2])
    code, _, words = piped(b"third\n/save\n", "--conversation", path, "--max_new_tokens", 4)
    assert code == 0 and "(6 messages saved" in words


def test_random_bytes_are_answered_or_named(piped: Piped) -> None:
    """3.6: never a traceback; as many errors as lines that are no UTF-8, no command and no question that fits."""
    source = random.Random(6)
    lines = [source.randbytes(source.randrange(1, 30)).replace(b"\n", b"") for _ in range(120)]
    lines += [
        bytes(source.choices(b"/ exitsavhlp\\n\xff\xe4\xbd\xa0\0\r\t\x1b", k=source.randrange(1, 9)))
        for _ in range(120)
    ]
    lines = [line for line in lines if line.strip() not in (b"/exit", b"/save")]
    code, _, words = piped(b"\n".join(lines), "--max_new_tokens", 1)
    errors = [line for line in words.splitlines() if line.startswith("error: ")]
    assert code == 2 and "Traceback" not in words
    kinds = ("not UTF-8 at byte", "no command", "there is no", "needs the name of a file", "could not be taken")
    assert all(any(kind in line for kind in kinds) for line in errors)
    broken = sum(not _is_utf8(line) for line in lines)
    assert sum("not UTF-8" in line for line in errors) == broken > 100


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_a_pipe_gets_no_escape_codes_and_answers_alone(piped: Piped) -> None:
    """5.8: answers on standard output, words about them on standard error, exit code 0."""
    code, answers, words = piped(
        "你好\r\none\\ntwo\n/help\n\n".encode(), "--max_new_tokens", 3, "--system", "Be brief."
    )
    assert code == 0 and "\x1b" not in words and answers.count("\n") >= 2
    assert words.count("(cut after 3 tokens") <= 2 and "/regenerate" in words


def test_ctrl_c_in_a_terminal_stops_the_answer_and_the_conversation_goes_on(model: Path, tmp_path: Path) -> None:
    """5.8: a real terminal, from the first message to the saved file."""
    path = tmp_path / "talk.json"
    arguments = ("-m", "trine", "chat", str(model), *CPU, "--regex", "[a-z ]{4000}", "--max_new_tokens", "4000")
    with Terminal(*arguments, environment={"XDG_STATE_HOME": str(tmp_path)}, columns=60) as terminal:
        terminal.wait_for("/help lists commands")
        terminal.type("hello\r")
        terminal.wait_for("hello\x1b")
        terminal.wait_for_more(200)
        terminal.type("\x03")
        terminal.wait_for("(stopped: ")
        terminal.type(f"/save {path}\r")
        terminal.wait_for("2 messages saved")
        terminal.type("\x04")
        assert terminal.ended() == 0
    assert "Traceback" not in terminal.text
    question, answer = json.loads(path.read_text("utf-8"))["messages"]
    assert question["content"] == "hello" and 0 < len(answer["content"]) < 4000


def test_line_input_is_what_a_pipe_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\\nb\n"))
    assert LineInput().read() == "a\nb"


def test_answers_begun_are_those_of_the_chat_format() -> None:
    chat = chat_format(tiny_tokenizer())
    prompt = Conversation("s", [Message("user", "a"), Message("assistant", "b")]).prompt(chat, 100)
    assert prompt.ids == chat.prompt_ids([Message("system", "s"), Message("user", "a")]) and prompt.dropped == 0
