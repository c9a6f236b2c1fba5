"""What a reward model is worth: figures of held-out judgements with their intervals, and what warns of using it."""

from typing import Any

from trine.report.plots import Band, Colour, Line, line_plot, probability_plot
from trine.report.run_reader import FinishedStage, RecipeRun
from trine.report.sections import Plot, Section, Verdict, titled
from trine.report.tables import ABSENT, Table, number, percent, signed, whole

Results = dict[str, Any]
KINDS = {"label": "labels", "score": "scores", "pair": "pairs", "ranking": "rankings"}
COLOURS: dict[str, Colour] = {"label": "accent", "score": "person", "pair": "after", "ranking": "before"}
MANY_CONTRADICTIONS = 0.1
WORDS = (
    "Measured on held-out judgements that training never saw. Behind each figure is its 95% interval, over groups "
    "(prompts, or what the split was made by). Beside it stands a model that only counts words, learned from the same "
    "judgements: a reward model that is not better knows no more than words. Calibration error is how far the "
    "probabilities that the score stands for are from the truth; noise alone gives what stands behind it as chance."
)


def worth_section(run: FinishedStage, recipe: RecipeRun) -> Section:
    """All figures of `stages/preferences/worth.py`; empty where nothing was held out."""
    worth = run.results.get("worth") or {}
    kinds = [(kind, worth["kinds"][kind]) for kind in KINDS if kind in worth.get("kinds", {})]
    tables = [
        _figures_table(kinds), _pairs_table(kinds), _length_table(kinds), _words_table(kinds),
        _contradictions_table(worth.get("contradictions") or {}),
    ]  # fmt: skip
    plots = [*_reliability_plots(run, kinds), *_words_plots(run, kinds)]
    return Section(titled("What the reward model is worth", run, recipe), WORDS, [t for t in tables if t.rows], plots)


# Warnings.


def verdicts(run: FinishedStage, recipe: RecipeRun) -> list[Verdict]:
    """What speaks against using the reward model; nothing where nothing does."""
    worth = run.results.get("worth") or {}
    kinds = worth.get("kinds", {})
    found = [verdict for kind in KINDS if kind in kinds for verdict in _of_kind(run.name, kind, kinds[kind])]
    return [*found, *_contradicting(run.name, worth.get("contradictions") or {})]


def _of_kind(name: str, kind: str, figures: Results) -> list[Verdict]:
    found = []
    length = figures["length"]
    if length["warning"] == "explained":
        found.append(
            Verdict(
                f"{name}: length explains {percent(length['explained']['mean'], 0)}{_percents(length['explained'])} of "
                f"what the score says of held-out {KINDS[kind]}.",
                f"Correlation of score and length {signed(length['correlation']['mean'])}; "
                f"{_balanced(length)}. PPO would make answers "
                f"{'shorter' if length['correlation']['mean'] < 0 else 'longer'} rather than better.",
                warning=True,
            )
        )
    elif length["warning"] == "only_length":
        found.append(
            Verdict(
                f"{name}: nothing is shown that the score knows of held-out {KINDS[kind]} but their length.",
                f"Right in {percent(length['accuracy']['mean'])} of them; {_balanced(length)}.",
                warning=True,
            )
        )
    difference = (figures.get("words_model") or {}).get("difference")
    if difference and difference["interval"] and difference["interval"][1] < 0:
        found.append(
            Verdict(
                f"{name}: a model that only counts words is right more often on held-out {KINDS[kind]}, by "
                f"{number(-100 * difference['mean'], 1)} points.",
                "Train longer or on more judgements, or use kind=words.",
                warning=True,
            )
        )
    return found


def _balanced(length: Results) -> str:
    found = length["balanced"]
    if not found:
        return "there are too few pairs in which length cannot help"
    return f"{percent(found['mean'])}{_percents(found)} where length cannot help, chance is 50%"


def _contradicting(name: str, contradictions: Results) -> list[Verdict]:
    """Where judgements of the same thing are shown to differ in more than a tenth of the cases."""
    found = []
    for what, counts in contradictions.items():
        share = counts["share"]
        if what in _WHAT and share and share["interval"][0] > MANY_CONTRADICTIONS:
            flipped = counts.get("flipped")
            found.append(
                Verdict(
                    f"{name}: {whole(counts['contradictory'])} of {whole(counts['repeated'])} {_WHAT[what]} that were "
                    "seen more than once contradict themselves.",
                    f"As if {percent(flipped)} of them were flipped: no reward model agrees with more than "
                    f"{percent(1 - flipped)} of such judgements."
                    if flipped is not None
                    else "",
                    warning=True,
                )
            )
    return found


_WHAT = {"labels": "labelled texts", "scores": "scored texts", "orders": "pairs of answers"}


# Tables.


def _figures_table(kinds: list[tuple[str, Results]]) -> Table:
    """A row for each figure of each kind."""
    rows = [(f"{KINDS[kind]}: {name}", *cells) for kind, figures in kinds for name, *cells in _rows(kind, figures)]
    caption = (
        "Best of four: a good answer against three bad ones, chance 25%; ties score: RewardBench 2's, at most 1.01. "
        "Temperature: fitted on one half, calibration errors of the other half before and after."
    )
    return Table(("held out", "value", "95% interval", "items"), rows, caption, title="Figures", open=True)


def _rows(kind: str, figures: Results) -> list[tuple[str, str, str, str]]:
    """(name, value, interval, items)."""
    rows = [_row("accuracy", figures["accuracy"], share=True)] if figures.get("accuracy") else []
    words = figures.get("words_model")
    if words:
        of_scores = kind == "score"
        name = "Spearman" if of_scores else "accuracy"
        rows.append(_row(f"{name}, counting words", words["figure"], share=not of_scores))
        rows += [_row("difference to counting words", words["difference"], share=True)] if words["difference"] else []
    rows += [_row(name, figures[key], share=True) for key, name in _SHARES.items() if figures.get(key)]
    rows += [_row(f"best of {k}", each, share=True) for k, each in (figures.get("best_of") or {}).items()]
    rows += [_row(name, figures[key]) for key, name in _NUMBERS.items() if figures.get(key)]
    if figures.get("calibration_error"):
        chance = f"calibration error (chance {number(figures['calibration_error_by_chance'])})"
        rows.append(_row(chance, figures["calibration_error"]))
    temperature = figures.get("temperature")
    if temperature:
        rows += [
            _row(f"calibration error at temperature {number(value, 2)}", temperature[when])
            for when, value in (("before", 1.0), ("after", temperature["value"]))
        ]
    if figures.get("agreement"):
        rows.append(_row("two seeds prefer the same answer", figures["agreement"], share=True))
    return rows


_SHARES = {"auc": "AUC", "best_of_4": "best of four"}
_NUMBERS = {
    "ties_score": "ties score", "pearson": "Pearson", "spearman": "Spearman", "brier": "Brier", "loss": "loss, nats",
}  # fmt: skip


def _row(name: str, figure: Results, *, share: bool = False) -> tuple[str, str, str, str]:
    return name, _value(figure["mean"], share), _interval(figure, share), whole(figure["items"])


def _value(value: float, share: bool) -> str:
    return percent(value) if share else number(value)


def _interval(figure: Results, share: bool) -> str:
    between = figure["interval"]
    return f"{_value(between[0], share)} to {_value(between[1], share)}" if between else ABSENT


def _percents(figure: Results) -> str:
    """The interval behind a share, such as " (41% to 62%)"."""
    between = figure["interval"]
    return f" ({percent(between[0], 0)} to {percent(between[1], 0)})" if between else ""


def _pairs_table(kinds: list[tuple[str, Results]]) -> Table:
    """Accuracy of pairs by margin, and by how long the better answer is."""
    pairs = dict(kinds).get("pair", {})
    rows = [
        _row(f"{lead}{row['bin']}", row, share=True)
        for key, lead in (("by_margin", ""), ("by_length", "the better one is "))
        for row in pairs.get(key, [])
    ]
    caption = "Lengths in words, of the better answer beside the worse one."
    return Table(("pairs", "accuracy", "95% interval", "pairs"), rows, caption, title="Pairs by margin and by length")


def _length_table(kinds: list[tuple[str, Results]]) -> Table:
    names = (
        ("correlation", "correlation of score and length (Spearman)", False),
        ("explained", "share of the score that length explains", True),
        ("accuracy", "of two, the better one scores higher", True),
        ("longer", "  where it is longer", True),
        ("shorter", "  where it is shorter", True),
        ("balanced", "  where length cannot help", True),
    )
    rows = [
        (f"{KINDS[kind]}: {name}", *_row("", figures["length"][key], share=share)[1:])
        for kind, figures in kinds
        for key, name, share in names
        if figures["length"].get(key)
    ]
    caption = (
        "Where length cannot help: pairs whose better answer is longer, each matched with one whose better answer is "
        "shorter by as much; of single texts, those of the same length. A model of nothing but length has 50% there."
    )
    return Table(("length", "value", "95% interval", "items"), rows, caption, title="Length")


def _words_table(kinds: list[tuple[str, Results]]) -> Table:
    rows = [
        (
            f"{KINDS[kind]}: all words" if row["words"] is None else f"{KINDS[kind]}: first {row['words']} words",
            *_row("", row, share=kind != "score")[1:3],
            percent(row["cut"], 0),
        )
        for kind, figures in kinds
        for row in figures.get("words_seen", [])
    ]
    caption = "Of scores the correlation (Spearman). An answer that is cut has no end, as one that PPO's budget cuts."
    return Table(("words seen", "accuracy", "95% interval", "cut"), rows, caption, title="Accuracy against words seen")


def _contradictions_table(contradictions: Results) -> Table:
    rows = [
        (
            _WHAT[what], whole(counts["repeated"]), whole(counts["contradictory"]),
            percent(counts["flipped"]) if counts.get("flipped") is not None else ABSENT,
        )
        for what, counts in contradictions.items()
        if what in _WHAT
    ]  # fmt: skip
    caption = "Training and held-out judgements. As if flipped: the share of flipped labels that would explain it."
    columns = ("", "seen more than once", "contradictory", "as if flipped")
    return Table(columns, rows, caption, title="Contradictory duplicates")


# Plots.


def _reliability_plots(run: FinishedStage, kinds: list[tuple[str, Results]]) -> list[Plot]:
    return [
        Plot(
            probability_plot(figures["reliability"], f"{run.name}: reliability of {KINDS[kind]}"),
            f"Reliability on held-out {KINDS[kind]}: the score's probability, and what is so; dashed: perfect.",
        )
        for kind, figures in kinds
        if figures.get("reliability")
    ]


def _words_plots(run: FinishedStage, kinds: list[tuple[str, Results]]) -> list[Plot]:
    """Accuracy over the first words that are seen; dashed: of whole answers."""
    plots = []
    for kind, figures in kinds:
        seen = [row for row in figures.get("words_seen", []) if row["words"] is not None]
        if len(seen) < 2:
            continue
        words, whole_answer = [float(row["words"]) for row in seen], figures["words_seen"][-1]["mean"]
        lines = [
            Line(words, [row["mean"] for row in seen], "first words", COLOURS[kind]),
            Line([words[0], words[-1]], [whole_answer] * 2, "all words", "before", "dashed"),
        ]
        ends = [[row["interval"][end] for row in seen if row["interval"]] for end in (0, 1)]
        bands = [Band(words, ends[0], ends[1], COLOURS[kind])] if len(ends[0]) == len(words) else []
        y_label = "correlation" if kind == "score" else "accuracy"
        svg = line_plot(
            lines, "words seen", y_label, f"{run.name}: {y_label} of {KINDS[kind]} by words seen", bands=bands
        )
        plots.append(Plot(svg, f"Held-out {KINDS[kind]}: {y_label} by how many words of an answer are seen."))
    return plots
