"""Sections on pretraining and on the corpus that it reads.

A figure that a run does not have, since its stage does not log it or an earlier version did not, is left out.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from trine.report.plots import Colour, Line, line_plot
from trine.report.run_reader import FinishedStage, RecipeRun, Series
from trine.report.sections import Answer, Plot, Sample, Section, titled
from trine.report.tables import Table, number, percent, whole
from trine.report.training_sections import loss_plot

PARTS = {"standard_library": "standard library", "packages": "packages", "folders": "folders"}
PART_COLOURS: tuple[Colour, ...] = ("accent", "after", "person", "before")
SHOWN_SAMPLES = 4
SHOWN_PLACES = 3
BITS = "bits_per_byte/"

# Metrics over steps: key, vertical axis, caption.
CURVES = (
    ("tokens_per_second", "tokens per second", "Throughput. Dips are other work on the machine."),
    ("matmul_share", "share of the peak rate", "Share of the machine's measured rate of matrix products (as MFU)."),
    ("gradient_norm", "gradient norm", "Norm of the gradient before clipping: many spikes announce divergence."),
    ("learning_rate", "learning rate", "Learning rate of the matrices: warm-up and decay."),
)


def shards_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """How many documents were kept and filtered out, and how fast."""
    words = (
        "The corpus was read once, filtered, encoded to token ids and written out. Every document is accounted for: "
        "kept, or left out by the filter named. Where a filter drops more than a few percent, check what it dropped."
    )
    return Section(titled("The corpus, encoded", run, recipe), words, corpus_tables(run.results))


def corpus_tables(results: dict[str, Any]) -> list[Table]:
    """Documents by outcome and by source, sizes and speed; empty ones left out."""
    sources: dict[str, dict[str, dict[str, int]]] = results.get("outcomes") or {}
    tables = [
        _outcomes_table(sources, results),
        account_table(results),
        _sources_table(sources),
        _encoding_table(results),
    ]
    return [table for table in tables if table.rows]


def account_table(results: dict[str, Any]) -> Table:
    """What became of every file and every record (`data/account.py`); without rows where a run has no account."""
    account = results.get("account") or {}
    files = account.get("files") or {}
    rows: list[tuple[str, ...]] = []
    if files.get("seen"):
        rows += [("files and folders found", whole(files["seen"])), ("  read", whole(files.get("read")))]
        rows += _counted("  passed over: {}", files.get("passed_over") or {})
    if account:
        rows += [("records", whole(account.get("records"))), ("  kept", whole(account.get("kept")))]
        rows += _counted("  left out: {}", account.get("left_out") or {})
        rows.append(("  broken", whole(account.get("broken"))))
    broken = account.get("places") or []
    caption = f"Broken, the first of them: {'; '.join(map(str, broken[:SHOWN_PLACES]))}." if broken else ""
    return Table(("found", "count"), rows, caption, title="Every file and record accounted for")


def _counted(label: str, numbers: dict[str, int]) -> list[tuple[str, ...]]:
    """The largest numbers first."""
    ordered = sorted(numbers.items(), key=lambda item: (-item[1], item[0]))
    return [(label.format(reason.replace("_", " ")), whole(number)) for reason, number in ordered]


def _outcomes_table(sources: dict[str, dict[str, dict[str, int]]], results: dict[str, Any]) -> Table:
    totals: dict[str, tuple[int, int]] = {}
    for outcomes in sources.values():
        for outcome, amount in outcomes.items():
            documents, size = totals.get(outcome, (0, 0))
            totals[outcome] = (documents + amount["documents"], size + amount["bytes"])
    seen = max(totals.get("seen", (0, 0))[0], 1)
    order = ["seen", "kept", *sorted(totals.keys() - {"seen", "kept"})]
    rows = [
        (_outcome(name), whole(totals[name][0]), f"{totals[name][1] / 1e6:,.1f}", percent(totals[name][0] / seen))
        for name in order
        if name in totals
    ]
    records = (results.get("records") or {}).values()
    broken = sum(each.get("broken", 0) for each in records)
    if rows and records:
        rows.append(("records that cannot be read", whole(broken), "", ""))
    return Table(("documents", "count", "MB", "share"), rows, title="Documents kept and left out")


def _outcome(name: str) -> str:
    return name if name in ("seen", "kept") else f"left out: {name.replace('_', ' ')}"


def _sources_table(sources: dict[str, dict[str, dict[str, int]]]) -> Table:
    rows = [
        (name, whole(_count(outcomes, "seen")), whole(_count(outcomes, "kept")), f"{_bytes(outcomes) / 1e6:,.1f}")
        for name, outcomes in sources.items()
    ]
    return Table(
        ("source", "documents", "kept", "kept MB"), rows if len(rows) > 1 else [], brief=False, title="Sources"
    )


def _count(outcomes: dict[str, dict[str, int]], outcome: str) -> int:
    return outcomes.get(outcome, {}).get("documents", 0)


def _bytes(outcomes: dict[str, dict[str, int]]) -> int:
    return outcomes.get("kept", {}).get("bytes", 0)


def _encoding_table(results: dict[str, Any]) -> Table:
    parts = results.get("parts") or {}
    rows: list[tuple[str, ...]] = [
        (f"tokens, {_part_label(name)}", whole(part.get("tokens"))) for name, part in parts.items()
    ]
    if "bytes_per_token" in results:
        rows.append(("bytes per token", number(results["bytes_per_token"], 2)))
    if "megabytes_per_second" in results:
        workers = results.get("workers")
        label = "MB a second, reading to writing" + (f", {workers} processes" if workers else "")
        rows.append((label, number(results["megabytes_per_second"], 1)))
    return Table(("", ""), rows, title="Tokens and speed")


def _part_label(part: str) -> str:
    return "training" if part == "train" else f"held-out {PARTS.get(part, part)}"


def pretrain_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """Loss and bits per byte, beside a compressor."""
    results, row_tokens = run.results, run.config.get("row_tokens")
    words = (
        "The model is trained to predict the next token of plain text. Cross-entropy, in nats per token, should fall "
        "fast at first, then slowly. Bits per byte is the cross-entropy of held-out text per byte instead of per "
        "token, so that models with different tokenizers compare: lower is better, and lower than xz -9 means that the "
        "model has learned more than repetition."
    )
    tables = [table for table in (held_out_table(results, row_tokens),) if table.rows]
    tables.append(Table(("", ""), _facts(run), brief=False, title="The training run"))
    if "outcomes" in results:
        tables += corpus_tables(results)
    return Section(titled("Pretraining", run, recipe), words, tables, _pretrain_plots(run), _samples_over_time(run))


def _facts(run: FinishedStage) -> list[tuple[str, ...]]:
    results = run.results
    rows: list[tuple[str, ...]] = [
        ("parameters", whole(results.get("parameters"))),
        ("tokens read", whole(results.get("tokens"))),
        ("passes over the training part", number(results.get("epochs"), 2)),
    ]
    speeds, shares = _speeds(run), run.by_step("matmul_share")[1]
    if speeds:
        rows.append(("tokens a second, median", whole(statistics.median(speeds))))
    if shares:
        rows.append(("share of the machine's matrix products, median", percent(statistics.median(shares))))
    for key, label in (("padded_share", "padding"), ("dropped_share", "tokens left out of the rows")):
        if key in results:
            rows.append((label, percent(results[key])))
    skipped = run.by_step("skipped")[1]
    if skipped:
        rows.append(("steps skipped by the guard", whole(max(skipped))))
    return rows


def _speeds(run: FinishedStage) -> list[float]:
    """Tokens a second of each step."""
    logged = run.by_step("tokens_per_second")[1]
    rows = [row for row in run.metrics if row.get("tokens") and row.get("seconds")]
    return logged or [row["tokens"] / row["seconds"] for row in rows]


def held_out_table(results: dict[str, Any], row_tokens: int | None) -> Table:
    """Model beside compressor, for each held-out part."""
    rows = [
        (
            f"held-out {PARTS.get(part, part)}",
            number(results[f"{BITS}{part}"]),
            number(results.get(f"xz_bits_per_byte/{part}")),
            percent(results.get(f"verbatim_line_share/{part}")),
        )
        for part in _parts(results)
    ]
    context = f"The model sees at most {row_tokens} tokens at a time, xz all of the text. " if row_tokens else ""
    return Table(
        ("bits per byte", "model", "xz -9", "known lines"),
        rows,
        f"{context}Known lines: share of held-out lines of at least 12 characters "
        "that stand verbatim in the training part.",
        title="Bits per byte, beside a compressor",
    )


def _parts(keys: Any) -> list[str]:
    """Held-out parts that bits per byte are known of, the usual ones first."""
    named = {key.removeprefix(BITS) for key in keys if key.startswith(BITS)}
    return [*(part for part in PARTS if part in named), *sorted(named - PARTS.keys())]


def _pretrain_plots(run: FinishedStage) -> list[Plot]:
    plots = loss_plot(run, "cross_entropy", "cross-entropy, nats per token")
    tokens, minutes = _progress(run, "tokens", 1e6), _progress(run, "seconds", 60)
    caption = (
        "Held-out bits per byte. The curve is measured on the beginning of the held-out text; the diamond, after the "
        "last step, and xz on all of it, so the diamond does not continue the curve."
    )
    for progress, axis, words in (
        (tokens, "tokens of training, millions", caption),
        (minutes, "minutes of training", "The same over training time."),
    ):
        lines = _bits_lines(run, progress) if progress else []
        if lines:
            unit = axis.split(",", maxsplit=1)[0]
            plots.append(Plot(line_plot(lines, axis, "bits per byte", f"Held-out bits per byte over {unit}"), words))
    return [*plots, *_curves(run)]


def _progress(run: FinishedStage, key: str, unit: float) -> dict[float, float]:
    """{step: the sum of `key` over the steps up to it, in units of `unit`}."""
    total, reached = 0.0, {}
    for row in run.metrics:
        if "step" in row and isinstance(row.get(key), int | float):
            total += row[key]
            reached[float(row["step"])] = total / unit
    return reached


def _bits_lines(run: FinishedStage, progress: dict[float, float]) -> list[Line]:
    """A curve, and the compressor's figure as a dashed line, for each held-out part."""
    lines: list[Line] = []
    for index, part in enumerate(_parts({key for row in run.metrics for key in row})):
        colour, label = PART_COLOURS[index % len(PART_COLOURS)], PARTS.get(part, part)
        steps, bits = run.by_step(f"{BITS}{part}")
        points = [(progress[step], value) for step, value in zip(steps, bits, strict=True) if step in progress]
        if not points:
            continue
        curve, whole_text = (points, []) if _same_text(run, part) else (points[:-1], points[-1:])
        if curve:
            lines.append(Line(*_axes(curve), label, colour))
        if whole_text:
            lines.append(Line(*_axes(whole_text), f"{label}, all of it", colour, "points"))
        level = run.results.get(f"xz_bits_per_byte/{part}")
        if level is not None:
            lines.append(Line([0.0, points[-1][0]], [level, level], f"{label}, xz -9", colour, "dashed"))
    return lines


def _axes(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _same_text(run: FinishedStage, part: str) -> bool:
    """Whether the evaluations during training read all of the held-out part, as the last one does."""
    last = run.by_step(f"{BITS}{part}")[1][-1:]
    if last != [run.results.get(f"{BITS}{part}")]:
        return True  # the row of the last evaluation is missing
    held_out = (run.results.get("parts") or {}).get(part, {}).get("tokens")
    return held_out is not None and held_out <= (run.config.get("evaluation_tokens") or 0)


def _curves(run: FinishedStage) -> list[Plot]:
    found: list[tuple[Series, str, str, str]] = [
        (run.by_step(key), key.replace("_", " "), axis, caption) for key, axis, caption in CURVES
    ]
    return [
        Plot(
            line_plot([Line(*series)], "step", axis, f"{run.name}: {name} over steps", counted=True),
            caption,
        )
        for series, name, axis, caption in found
        if series[0]
    ]


def _samples_over_time(run: FinishedStage) -> list[Sample]:
    """The completions of each fixed prompt at a few steps from first to last."""
    prompts = dict.fromkeys(str(row["prompt"]) for row in run.samples if "step" in row and "prompt" in row)
    return [
        Sample(
            prompt,
            [
                Answer("plain", f"after {whole(row['step'])} steps", _visible(str(row.get("text", ""))))
                for row in _spread([row for row in run.samples if row.get("prompt") == prompt and "step" in row])
            ],
        )
        for prompt in prompts
    ]


def _visible(text: str) -> str:
    """A sample without trailing white space, of which an untrained model writes pages."""
    return text.rstrip() or "(white space)"


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most `SHOWN_SAMPLES` rows at even distances, the last among them; of each step its last row."""
    rows = list({row["step"]: row for row in rows}.values())
    if len(rows) <= SHOWN_SAMPLES:
        return rows
    return [rows[round(index * (len(rows) - 1) / (SHOWN_SAMPLES - 1))] for index in range(SHOWN_SAMPLES)]
