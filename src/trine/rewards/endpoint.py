"""A reward behind HTTP: a server of one's own, in any language, on any machine.

Asked by POST, in batches, with JSON:

    {"prompts": [text], "responses": [text], "query": [prompt + response], "messages": [[{"role", "content"}]],
     "ended": [bool], "columns": {"name": [value]}, "labels": [value]}

`columns` are the other fields of the prompts' records; `labels` is the field `label`, where there is one; `query` and
`labels` are what OpenRLHF's remote reward models read. Answered with JSON:

    {"rewards": [number]}     or "scores" in place of "rewards"; null: does not apply

TRINE_REWARD_TOKEN, if it is set, is sent as a bearer token.
"""

import json
import os
import time
from collections.abc import Sequence
from functools import partial
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from trine.records import Answer
from trine.rewards.base import DetailedReward, Scored
from trine.rewards.calling import CallError, call_all
from trine.rewards.function import BY_NAME
from trine.rewards.returned import check_count, scores_of
from trine.rewards.texts import SHOWN, asked
from trine.runtime.errors import TrineError
from trine.runtime.json_values import parse_json

TOKEN = "TRINE_REWARD_TOKEN"
BACKOFF = 0.5
"""seconds before the first retry; each next one waits twice as long"""
TOO_BUSY = 429


class EndpointReward(DetailedReward):
    """A reward that a server gives::

        reward = EndpointReward("http://127.0.0.1:8000/score", workers=4)  # nothing is asked yet

    Each request holds `batch_size` answers and may take `timeout` seconds, with `workers` of them at a time. Where the
    server cannot be reached, or answers 5xx or 429, it is asked again, `retries` times, after waits that double. Raises
    `TrineError` with the server's own words for everything else.
    """

    def __init__(
        self, url: str, *, workers: int = 1, timeout: float | None = 60.0, batch_size: int = 32, retries: int = 3
    ) -> None:
        super().__init__()
        self.url, self.workers, self.timeout = url, workers, timeout
        self.batch_size, self.retries = batch_size, retries

    def try_out(self, answers: Sequence[Answer], called_with: int = 3) -> None:
        """Raise `TrineError` now if the server does not answer as it should."""
        self.score(answers[:called_with])

    def detailed(self, answers: Sequence[Answer]) -> Scored:
        """Scores [B]."""
        parts = [answers[start : start + self.batch_size] for start in range(0, len(answers), self.batch_size)]
        try:
            found = call_all([partial(self._asked, part) for part in parts], workers=self.workers)
        except CallError as error:
            if isinstance(error.__cause__, TrineError):
                raise error.__cause__ from None
            raise
        return scores_of([value for values in found for value in values], answers, self.url)

    def _asked(self, answers: Sequence[Answer]) -> list[Any]:
        """The server's value for each answer."""
        try:
            body = json.dumps(request_of(answers)).encode()
        except (TypeError, ValueError) as error:
            raise TrineError(f"reward {self.url}: a field of the prompts' records is no JSON: {error}") from None
        for attempt in range(self.retries + 1):
            try:
                return self._read(self._posted(body), len(answers))
            except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
                if not _passes(error) or attempt == self.retries:
                    raise self._failed(error, answers, attempt + 1) from error
            time.sleep(BACKOFF * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _posted(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if os.environ.get(TOKEN):
            headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
        with build_opener(_NoRedirect).open(Request(self.url, body, headers), timeout=self.timeout) as response:
            answer: bytes = response.read()
        return answer

    def _read(self, answer: bytes, count: int) -> list[Any]:
        try:
            found = parse_json(answer)
        except ValueError as error:
            raise TrineError(f"reward {self.url} answered what is not JSON ({error}): {answer[:200]!r}") from None
        values = next((found[name] for name in ("rewards", "scores") if name in found), found) if isinstance(
            found, dict
        ) else found  # fmt: skip
        return check_count(values if isinstance(values, list) else None, found, count, self.url)

    def _failed(self, error: Exception, answers: Sequence[Answer], attempts: int) -> TrineError:
        times = f" ({attempts} attempts)" if attempts > 1 else ""
        told = str(getattr(error, "reason", "") or error) or type(error).__name__
        if isinstance(error, HTTPError):
            told = f"{error.code} {error.reason}: {error.read(200).decode(errors='replace')}".rstrip(": ")
        elif "timed out" in told:
            told = f"no answer within timeout={self.timeout:g} seconds; give it more, or a smaller batch_size"
        return TrineError(
            f"reward {self.url} failed{times} on {len(answers)} responses, the first to the prompt "
            f"{asked(answers[0])[:SHOWN]!r}: {told}"
        )


def request_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """What the server is sent about `answers`."""
    names = dict.fromkeys(name for answer in answers for name in answer.columns)
    columns = {name: [answer.columns.get(name) for answer in answers] for name in names}
    prompts, responses = [asked(answer) for answer in answers], [answer.response for answer in answers]
    return {
        "prompts": prompts,
        "responses": responses,
        "query": [prompt + response for prompt, response in zip(prompts, responses, strict=True)],
        "messages": [BY_NAME["messages"](answer) for answer in answers],
        "ended": [answer.ended for answer in answers],
        "columns": columns,
    } | ({"labels": columns["label"]} if "label" in columns else {})


def _passes(error: Exception) -> bool:
    """Whether it may pass by itself: a server that is starting or overloaded; not one that is too slow."""
    if isinstance(error, HTTPError):
        return error.code >= 500 or error.code == TOO_BUSY
    reason = getattr(error, "reason", error)  # a text where the address itself is wrong
    return not isinstance(reason, TimeoutError | str)


class _NoRedirect(HTTPRedirectHandler):
    """A redirected POST would become a GET without its answers; it is an error instead."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        raise HTTPError(req.full_url, code, f"redirected to {newurl}: give that address", headers, fp)
