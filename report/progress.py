"""What a training run prints."""

import math
import shlex

from console.errors import print_error
from recipe import Recipe
from records import names
from records.results import LogRow, find_best
from records.run import Run


def print_start(run: Run) -> None:
    print(f"learning rate: {explain_peak(run.config.recipe)}", flush=True)
    if run.log:
        print(f"resumed after epoch {len(run.log)} of {run.config.recipe.epochs}", flush=True)


def print_epoch(row: LogRow, run: Run) -> None:
    epochs = run.config.recipe.epochs
    print(
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}  "
        f"train loss {row.train_loss:.4f} acc {row.train_acc:5.2f} %  "
        f"{run.config.split} loss {row.eval_loss:.4f} acc {row.eval_acc:5.2f} %  "
        f"{row.seconds:.1f} s, {row.images_per_second:,.0f} images/s"
        f"{'  best' if find_best(run.log) is row else ''}",
        flush=True,
    )
    guessing = math.log(len(run.config.classes))  # the loss of equal probabilities
    if row.train_loss > 1.2 * guessing:  # an untrained network is somewhat above it
        print_error(
            f"warning: the training loss, {row.train_loss:.4g}, is above that of guessing, "
            f"{guessing:.4g}. The learning rate {explain_peak(run.config.recipe)}; try a lower --lr"
        )


def explain_peak(recipe: Recipe) -> str:
    lr, size = recipe.lr_per_image, recipe.batch_size
    return f"peaks at {recipe.peak_lr:g} (--lr {lr:g} x --batch-size {size})"


def print_summary(run: Run) -> None:
    last, best = run.log[-1], find_best(run.log)
    minutes, seconds = divmod(round(sum(row.seconds for row in run.log)), 60)
    print(
        f"{names.SPLITS[run.config.split]} accuracy: last {last.eval_acc:.2f} % (epoch "
        f"{last.epoch}), best {best.eval_acc:.2f} % (epoch {best.epoch}); "
        f"{minutes} min {seconds} s of training; pictures in {run.out / names.PLOTS}"
    )
    if run.out == names.RESULTS:
        print("next: python update_readme.py")
    else:
        best_pt, tiles = (shlex.quote(str(run.out / x)) for x in (names.BEST, names.TEST_TILES))
        print(f"next: python predict.py --checkpoint {best_pt} {tiles}")
