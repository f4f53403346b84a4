"""The description of a run, as Markdown: what MLflow's UI shows above the run."""

from __future__ import annotations

from runback.commands.baselines import Scores
from runback.commands.fork_point import fork_of
from runback.config import MUTABLE_ON_RESUME
from runback.console.markdown import code, code_block, paragraphs
from runback.open_run.forking import sentence
from runback.open_run.run import Run
from runback.training.setup import TrainingSetup

LARGEST_NOTE = 4000
SCALED = "\n- `cost` and `val_cost` are of the standardised target, test scores in its own units"
UNFINISHED = "the run is in training, or was stopped before its end"
# Options of which it is told that a resume has changed them.
TOLD = sorted(MUTABLE_ON_RESUME - {"data", "name"})


def note(
    run: Run, setup: TrainingSetup, chosen: str, scores: Scores, baselines: dict[str, Scores]
) -> str:
    """What the run is, its scores beside those of simple models, and the commands for it.

    Args:
        run: the live run.
        setup: of the training.
        chosen: the epoch of the model's weights, with the reason.
        scores: of the test rows, empty without any.
        baselines: those of simple models by name.
    """
    parts = _table(scores, baselines), _unusual(run, setup), _commands(run)
    return _joined(run, setup, chosen, *parts)


def post_unfinished(run: Run, setup: TrainingSetup, error: Exception | None = None) -> None:
    """Describes a run that has no model yet, or will have none because of an error."""
    reason = code(f"{type(error).__name__}: {error}") if error else UNFINISHED
    commands = (f"runback show {run.id}", f"runback resume {run.id}")
    text = _joined(run, setup, f"none yet; {reason}", code_block(commands))
    run.journal.post("note", text=text)


def _joined(run: Run, setup: TrainingSetup, chosen: str, *parts: str) -> str:
    """A description: of what the run is a fork, what it is, and more parts."""
    fork = fork_of(run)
    begin = sentence(fork) if fork else ""
    return paragraphs(begin, _what(setup, chosen), *parts)[:LARGEST_NOTE]


def _what(setup: TrainingSetup, chosen: str) -> str:
    # MLflow's table shows the beginning; the whole path of the table is that of the dataset.
    split, columns, shape = setup.split, setup.table.columns, setup.table.sample_shape
    features = f"{len(columns.features)} feature column(s)"
    if shape:
        features = f"samples of shape {list(shape)}"
    rows = (
        f"{len(split.train)} training, {len(split.validation)} validation, {len(split.test)} test"
    )
    size = sum(p.numel() for p in setup.state.model.parameters())
    targets = ", ".join(code(name) for name in columns.targets[:3])
    return (
        f"- Weights: {chosen}\n"
        f"- Data: {code(setup.table.path.name)}, rows: {rows}; {features}, target {targets}\n"
        f"- Model: {code(setup.config.model)}, {size} parameters, on {setup.state.device}"
        + (SCALED if setup.config.normalize_target != "none" else "")
    )


def _table(scores: Scores, baselines: dict[str, Scores]) -> str:
    """The scores on the test rows: a row for each score, a column for each model."""
    if not scores:
        return "There are no test rows, and so no scores."
    models = {"this model": scores, **baselines}
    lines = [["test score", *models], ["---"] * (len(models) + 1)]
    for name in scores:
        cells = [f"{found[name]:.6g}" if name in found else "" for found in models.values()]
        lines.append([f"test_{name}", *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _unusual(run: Run, setup: TrainingSetup) -> str:
    found = []
    if run.record is not None:
        before, now = run.record.original_config, setup.config.as_params()
        changes = ", ".join(n for n in TOLD if before.get(n, now[n]) != now[n])
        found.append("was resumed" + (f", with other values of {changes}" if changes else ""))
    if run.changed:
        found.append(f"was resumed under other conditions: {code(run.changed)}")
    if setup.state.epoch < setup.config.epochs:
        found.append(f"was stopped by patience after epoch {setup.state.epoch}")
    if number := len(run.journal.mismatches):
        found.append(f"gave {number} other value(s) when epochs were trained again")
    return "\n".join(f"- The run {text}." for text in found)


def _commands(run: Run) -> str:
    lines = (
        f"runback evaluate {run.id}",
        f"runback predict {run.id} --data FILE",
        f"runback resume {run.id} --epochs N",
        f"runback reproduce {run.id}",
        f"python -c \"import runback; model = runback.load_model('{run.id}')\"",
    )
    return code_block(lines)
