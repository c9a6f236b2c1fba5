"""16.5: a reward behind HTTP, against a server on this machine: batches, retries, time limits, errors in words."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.loopback import QuietHandler, listening
from trine.records import Answer, Message
from trine.rewards import endpoint
from trine.rewards.endpoint import TOKEN, EndpointReward
from trine.runtime.errors import TrineError

ANSWERS = [
    Answer((Message("user", f"q{n}"),), "a" * n, n != 2, columns={"label": n, "topic": "t"}) for n in range(1, 6)
]
Reply = Callable[[dict[str, Any], int], tuple[int, Any]]


@contextmanager
def served(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]], list[Any]]]:
    """A server whose n-th answer is `reply(request, n)`, as (status, JSON or bytes); its address, what it was asked and
    with which headers."""
    requests: list[dict[str, Any]] = []
    headers: list[Any] = []
    lock = threading.Lock()

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                requests.append(body)
                headers.append(self.headers)
                number = len(requests)
            status, answer = reply(body, number)
            self.reply(status, {}, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    with listening(Handler) as address:
        yield f"{address}/score", requests, headers


def lengths(body: dict[str, Any], number: int) -> tuple[int, Any]:
    return 200, {"rewards": [len(each) for each in body["responses"]]}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BACKOFF", 0.001)
    monkeypatch.delenv(TOKEN, raising=False)


def test_a_server_is_asked_in_batches_with_everything_about_the_answers() -> None:
    """The protocol; `query` and `labels` are those of OpenRLHF's remote reward models."""
    with served(lengths) as (url, requests, _):
        assert EndpointReward(url, batch_size=2).score(ANSWERS).tolist() == [1, 2, 3, 4, 5]
    assert [len(each["responses"]) for each in requests] == [2, 2, 1]
    assert requests[0] == {
        "prompts": ["q1", "q2"], "responses": ["a", "aa"], "query": ["q1a", "q2aa"], "ended": [True, False],
        "messages": [[{"role": "user", "content": "q1"}], [{"role": "user", "content": "q2"}]],
        "columns": {"label": [1, 2], "topic": ["t", "t"]}, "labels": [1, 2],
    }  # fmt: skip


@pytest.mark.parametrize("form", [lambda scores: {"scores": scores}, lambda scores: scores, lambda s: {"rewards": s}])
def test_scores_may_come_under_either_name_or_alone(form: Callable[[list[Any]], Any]) -> None:
    """null: does not apply."""
    with served(lambda body, number: (200, form([0.5, None, 1, 0, 0]))) as (url, _, _):
        scores = EndpointReward(url).score(ANSWERS)
    assert scores.isnan().tolist() == [False, True, False, False, False] and scores[0] == 0.5


def test_batches_are_sent_side_by_side_and_kept_in_order() -> None:
    """With five workers all five requests are under way at once."""
    barrier = threading.Barrier(5, timeout=20)

    def reply(body: dict[str, Any], number: int) -> tuple[int, Any]:
        barrier.wait()
        return lengths(body, number)

    with served(reply) as (url, _, _):
        assert EndpointReward(url, workers=5, batch_size=1).score(ANSWERS).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(status: int) -> None:
    with served(lambda body, number: (status, b"later") if number < 3 else lengths(body, number)) as (url, requests, _):
        assert EndpointReward(url).score(ANSWERS[:1]).tolist() == [1]
    assert len(requests) == 3


def test_a_server_that_stays_busy_stops_the_run_with_its_words_and_the_prompt() -> None:
    with served(lambda body, number: (503, b"no model loaded")) as (url, requests, _):
        told = (
            r"reward http\S+ failed \(3 attempts\) on 5 responses, the first to the prompt 'q1': 503 .*no model loaded"
        )
        with pytest.raises(TrineError, match=told):
            EndpointReward(url, retries=2).score(ANSWERS)
    assert len(requests) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_will_not_pass_is_not_asked_again(status: int) -> None:
    told = rf"failed on 5 responses.*{status} .*field missing"
    with (
        served(lambda body, number: (status, b"field missing")) as (url, requests, _),
        pytest.raises(TrineError, match=told),
    ):
        EndpointReward(url).score(ANSWERS)
    assert len(requests) == 1


def test_a_server_that_is_not_there_is_named() -> None:
    with served(lengths) as (url, _, _):
        pass  # it is gone
    with pytest.raises(TrineError, match=rf"reward {url} failed \(4 attempts\).*prompt 'q1': .*refused"):
        EndpointReward(url).score(ANSWERS)


def test_a_server_that_takes_too_long_stops_the_run_at_once() -> None:
    """A second attempt would take as long."""
    ended = threading.Event()

    def reply(body: dict[str, Any], number: int) -> tuple[int, Any]:
        ended.wait(20)
        return lengths(body, number)

    with served(reply) as (url, requests, _):
        begun = time.time()
        with pytest.raises(TrineError, match=r"failed on 5 responses.*no answer within timeout=0.2 seconds"):
            EndpointReward(url, timeout=0.2).score(ANSWERS)
        assert time.time() - begun < 10 and len(requests) == 1
        ended.set()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"<html>", "answered what is not JSON"),
        ({"rewards": [1.0]}, "1 values for 5 responses"),
        ({"rewards": [1.0] * 6}, "6 values|more than 5 values"),
        ({"reward": [1.0] * 5}, r"returned .*\(dict\) for 5 responses"),
        ({"rewards": 1.0}, r"for 5 responses"),
        ({"rewards": [1.0, 1.0, "1", 1.0, 1.0]}, r"returned '1' \(str\) for the response 'aaa' to the prompt 'q3'"),
        (b'{"rewards": [1, 1, 1, NaN, 1]}', "returned nan for the response 'aaaa' to the prompt 'q4'"),
    ],
)
def test_an_answer_that_is_no_scores_is_refused(answer: Any, told: str) -> None:
    """16.5: a failure is never a 0."""
    with served(lambda body, number: (200, answer)) as (url, requests, _), pytest.raises(TrineError, match=told):
        EndpointReward(url).score(ANSWERS)
    assert len(requests) == 1


def test_a_redirected_request_is_an_error() -> None:
    """A POST that is redirected becomes a GET, without the answers."""

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(302, {"Location": "/elsewhere"}, b"")

    with listening(Handler) as address, pytest.raises(TrineError, match=r"302 redirected to .*/elsewhere"):
        EndpointReward(address).score(ANSWERS)


def test_a_token_is_sent_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(lengths) as (url, _, headers):
        EndpointReward(url).score(ANSWERS)
        monkeypatch.setenv(TOKEN, "abc")
        EndpointReward(url).score(ANSWERS)
    assert [each["Authorization"] for each in headers] == [None, "Bearer abc"]


def test_a_field_that_is_no_json_is_named() -> None:
    with pytest.raises(TrineError, match="a field of the prompts' records is no JSON"):
        EndpointReward("http://127.0.0.1:9/").score([Answer((), "a", query="q", columns={"x": object()})])
