"""The page as a reader meets it: curves before tables, nothing cut off, readable in light and dark, without network."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.report.test_report import described, finished, miniature
from trine.report.report import write_report

TEMPLATE = Path(write_report.__code__.co_filename).parent / "templates" / "report.html.j2"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run of every kind of stage."""
    return write_report(miniature(tmp_path_factory.mktemp("out")))[0].read_text("utf-8")


class Order(HTMLParser):
    """Tags in their order, and the attributes of those asked for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "td":
            self.cells.append(dict(attrs))


def sections(page: str) -> dict[str, list[str]]:
    parts = page.split("<section")[1:]
    return {re.findall(r"<h2>(.*?)</h2>", part)[0]: Order(part).tags for part in parts}


def test_curves_stand_before_tables_and_tables_are_folded(page: str) -> None:
    """5.5: in every section; what was run comes last."""
    found = sections(page)
    assert "svg" in found["Pretraining"] and list(found)[-1] == "What was run"
    for tags in found.values():
        assert tags.count("table") == tags.count("details") == tags.count("summary")
        if "svg" in tags and "table" in tags:
            assert max(n for n, tag in enumerate(tags) if tag == "svg") < tags.index("table")


def test_every_cell_names_its_column_where_rows_are_stacked(page: str) -> None:
    """5.5: below 640 px each row is a block, so no column is cut off; without roles it would be no table any more."""
    cells = Order(page).cells
    assert {cell.get("data-column") for cell in cells} >= {"before", "after", "gain", "before PPO", "after PPO"}
    assert page.count("<table") == page.count('role="table"') and all(cell["role"] == "cell" for cell in cells)
    narrow = TEMPLATE.read_text("utf-8").split("@media (max-width: 640px)")[1]
    assert "table, tbody, tr, td, tbody th { display: block" in narrow


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: str) -> None:
    """5.5: WCAG AA (4.5:1) for every colour of text, on the page and on panels, light and dark."""
    blocks = re.findall(r":root \{(.*?)\}", TEMPLATE.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 2 and "@media (prefers-color-scheme: dark)" in TEMPLATE.read_text("utf-8")
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme == "dark"]))
    for ground in ("paper", "panel"):
        for text in ("ink", "quiet", "accent", "before", "after", "person"):
            lighter, darker = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground)


def test_every_plot_has_words_for_screen_readers_and_the_fields_words_on_its_axes(page: str) -> None:
    """5.5: an axis says what is measured, not its unit alone."""
    labels = re.findall(r'<svg [^>]*role="img" aria-label="([^"]+)"', page)
    assert len(labels) == page.count("<svg") and all(" " in label for label in labels)
    shown = set(re.findall(r"<text[^>]*>([^<]+)</text>", page)) | set(re.findall(r"<!-- (.*?) -->", page))
    for axis in ("cross-entropy, nats per token", "KL divergence, nats per response", "PPO iteration", "bits per byte"):
        assert axis in shown, axis
    assert shown.isdisjoint({"rate", "norm", "share", "tokens", "nats per token", "reward per nat"})


def pretrained(folder: Path, evaluation_tokens: int) -> str:
    """A page of a run whose held-out part has 1,000 tokens."""
    metrics: list[dict[str, Any]] = []
    for step in range(1, 5):
        metrics.append({"step": step, "tokens": 100.0, "seconds": 1.0})
        if step < 4:
            metrics.append({"step": step, "bits_per_byte/code": 2.0 - step / 10})
    metrics.append({"step": 4, "bits_per_byte/code": 1.9})
    done = {"bits_per_byte/code": 1.9, "parts": {"code": {"tokens": 1000}}}
    finished(folder, "pretrain", {"evaluation_tokens": evaluation_tokens}, done, metrics)
    described(folder, ("pretrain", "pretrain"))
    return write_report(folder)[0].read_text("utf-8")


@pytest.mark.parametrize(("evaluation_tokens", "joined"), [(200, False), (1000, True)])
def test_a_curve_is_joined_to_a_point_over_the_same_text_alone(
    tmp_path: Path, evaluation_tokens: int, joined: bool
) -> None:
    """5.5: the last evaluation reads all held-out text; where the earlier ones read its beginning, it stands apart."""
    page = pretrained(tmp_path, evaluation_tokens)
    curves = [path.count("L") + 1 for path in re.findall(r'<path d="(M[^"Cz]*?)"[^>]*stroke-linecap: square', page)]
    assert (4 in curves) == joined and (3 in curves) == (not joined)
    assert ("code, all of it" in page) == (not joined)


def test_one_task_and_one_pair_are_shown_as_they_stand(tmp_path: Path) -> None:
    """5.5: the first record of the file, told from markup; a stage without its file has no sample, and no error."""
    for name in ("functions", "preferences", "empty"):
        finished(tmp_path, name, {}, {"train": 2, "held_out": 1})
    task = {"prompt": [{"role": "user", "content": "def f():\n    '''Be <b>'''"}], "response": "return 'the task'"}
    pair = {"prompt": "p", "chosen": "<i>person</i>", "rejected": "sampled"}
    for name, row in (("functions", task), ("preferences", pair)):
        lines = [json.dumps(row), json.dumps(dict.fromkeys(row, "not this one"))]
        (tmp_path / name / "train.jsonl").write_text("\n".join(lines))
    described(tmp_path, ("functions", "functions"), ("preferences", "preferences"), ("empty", "preferences"))
    page = write_report(tmp_path)[0].read_text("utf-8")
    for words in ("def f():", "Be &lt;b&gt;", "the task", "&lt;i&gt;person&lt;/i&gt;", "sampled", "Chosen", "Rejected"):
        assert words in page, words
    assert "not this one" not in page


def test_what_is_said_of_scores_is_true_of_the_scores_shown(page: str) -> None:
    """5.5: no zero that the table contradicts; the deviation named is that of the scores before."""
    headline = page[page.index("<h2>Rewards, before") :]
    words = re.findall(r"<p>(.*?)</p>", headline, re.DOTALL)[0]
    assert "0 is" not in words and "standard deviation of the scores before PPO (reward 1.00, held-out 1.00)" in words
