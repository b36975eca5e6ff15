"""A table and a picture of several runs side by side."""

from pathlib import Path

from records import names
from records.run import evaluated_on, read_config, read_log
from report.markdown import escaped, heading, row
from report.pictures import draw_comparison


def compare(runs: list[Path], picture: Path) -> str:
    """A Markdown table of the runs in these folders; draws their accuracies at `picture`."""
    header = heading(
        *("run", "parameters:", "epochs:", "last accuracy:", "best accuracy:", "on", "time:"),
        "command",
    )
    lines, logs = [header], {}
    for folder in dict.fromkeys(runs):
        config, log = read_config(folder), read_log(folder)
        name = evaluated_on(log)
        accuracy, logs[str(folder)] = log[f"{name}_acc"], log
        lines.append(
            row(
                escaped(str(folder)),
                f"{config.parameters:,}",
                len(log),
                f"{accuracy.iloc[-1]:.2f} %",
                f"{accuracy.max():.2f} %",
                names.EVALUATED[name],
                f"{log.seconds.sum() / 60:.1f} min",
                escaped(config.command),
            )
        )
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(logs, picture)
    return "\n".join([*lines, "", f"Their accuracy by epoch is drawn in {picture}."])
