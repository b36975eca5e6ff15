"""Measures the speed of training, and its share of the speed of the training step alone.

    python -m experiments.bench                    # some minutes; writes results/bench.csv
    python -m experiments.bench --quick            # under a minute, and noisier
    python -m experiments.bench --device cuda --compile
    python -m experiments.bench --profile          # where the time of a training step goes

Every mode has a process of its own, since memory allocation and peak memory belong to a process.
The modes take turns, one at a time, so that a slow phase of the machine slows all of them; the
figures are medians over the rounds.
"""

import argparse

from console.errors import command_line, run
from console.flags import Parser, a_path, add_setting_flags, add_speed_flags
from inputs.sources import add_data_flags
from recipe import Recipe
from records import names
from records.evidence import current_commit
from records.files import check_writable


def parse_arguments() -> argparse.Namespace:
    parser = Parser("Measure the speed of training; see docs/speed.md.")
    add_data_flags(parser)
    add_setting_flags(parser, Recipe, "batch_size")
    add_speed_flags(parser)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument(
        "--profile", action="store_true", help="print where a step's time goes, and nothing else"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=a_path, default=names.RESULTS, help="folder of bench.csv"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    check_writable(args.out)

    import torch

    from constraints.trace import trace
    from data import check_batch_size, load, worker_count
    from experiments.modes import Setup, measure, profile
    from model import build_network
    from records.run import archive_earlier_bench
    from records.tables import as_table, write_table
    from training.devices import device_description, pick_device

    device = pick_device(args.device)
    trace(build_network(num_classes=10))
    data = load(args.dataset, args.data_dir)
    check_batch_size(args.batch_size, len(data.train_labels))
    setup = Setup(
        recipe=Recipe(batch_size=args.batch_size, epochs=1_000_000),  # longer than any measurement
        device=device,
        workers=worker_count(args.workers, device),
        compiled=args.compile,
    )
    if args.profile:
        print(profile(setup, data))
        return
    rounds, seconds = (3, 0.2) if args.quick else (20, 1.2)
    print(
        f"{data.name}, batches of {args.batch_size}, {setup.workers} workers, torch "
        f"{torch.__version__}, on {device_description(device)}; {rounds} rounds",
        flush=True,
    )
    rows = measure(setup, data, rounds, seconds, command_line(), current_commit())
    kept = ["device", "command", "commit"]  # the same in all rows
    print(as_table(rows).drop(columns=kept, errors="ignore").to_string(index=False))
    args.out.mkdir(parents=True, exist_ok=True)
    archive_earlier_bench(args.out)
    write_table(args.out / names.BENCH, rows)
    shown = "; next: python update_readme.py" if args.out == names.RESULTS else ""
    print(f"wrote {args.out / names.BENCH}{shown}")


if __name__ == "__main__":
    run(main)
