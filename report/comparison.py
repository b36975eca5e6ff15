"""A table and a picture of several runs side by side."""

from pathlib import Path

from console.markdown import escaped, table
from records import names
from records.results import read_config, read_log
from report.pictures import draw_comparison


def compare(runs: list[Path], picture: Path) -> str:
    """A Markdown table of the runs in these folders; draws their accuracies at `picture`."""
    rows, logs = [], {}
    for folder in dict.fromkeys(runs):
        config, log = read_config(folder), read_log(folder)
        images = names.SPLITS[config.split]
        accuracy, logs[f"{folder} ({images})"] = log.eval_acc, log
        figures = (
            f"{config.parameters:,}",
            len(log),
            f"{accuracy.iloc[-1]:.2f} %",
            f"{accuracy.max():.2f} %",
            f"{images} images of {escaped(config.dataset)}",
            f"{log.seconds.sum() / 60:.1f} min",
        )
        rows.append((escaped(str(folder)), *figures, escaped(config.command)))
    draw_comparison(logs, picture)
    titles = ("parameters:", "epochs:", "last accuracy:", "best accuracy:", "on", "time:")
    figures = table(("run", *titles, "command"), rows)
    return f"{figures}\n\nTheir accuracy by epoch is drawn in {picture}."
