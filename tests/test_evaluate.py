"""A checkpoint measured anew has the accuracy that its run logged."""

import re
from pathlib import Path

import numpy as np
from runs import Outcome, run_script, save_npz

from data import as_tensor
from records import names
from records.checkpoints import load_checkpoint
from records.results import read_log
from records.trained_net import TrainedNet


def evaluate(checkpoint: Path, dataset: object) -> Outcome:
    return run_script("evaluate", "--checkpoint", checkpoint, "--dataset", dataset)


def figures(outcome) -> list[float]:
    assert outcome.status == 0, outcome.err
    found = re.findall(r"(\d+\.\d+) %|entropy (\d+\.\d+)", outcome.out)
    return [float(percent or loss) for percent, loss in found]


def test_it_is_what_the_log_says(finished_run, small_npz):
    log = read_log(finished_run).set_index("epoch")
    for name in (names.BEST, names.LAST):
        row = log.loc[load_checkpoint(finished_run / name).epoch]
        outcome = evaluate(finished_run / name, small_npz)
        accuracy, loss, _ = figures(outcome)
        assert accuracy == round(row.eval_acc, 2)
        assert abs(loss - row.eval_loss) < 1e-4


def test_mirror_images_are_averaged_in(finished_run, small_data, tmp_path):
    """On images whose labels are the predictions with them: others are less than 100 %."""
    net, rng = TrainedNet(finished_run / "best.pt"), np.random.default_rng(0)
    images = rng.integers(0, 256, (500, 4, 4, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    logits, mirrored, turned = (
        net.logits(as_tensor(each.copy())) for each in (images, images[:, :, ::-1], images[:, ::-1])
    )
    labels = (logits + mirrored).argmax(1).numpy()
    alone, with_turned = (
        round(100 * np.mean(each.argmax(1).numpy() == labels), 2)
        for each in (logits, logits + turned)
    )
    assert max(alone, with_turned) < 100
    path = save_npz(tmp_path / "small.npz", small_data, test_images=images, test_labels=labels)
    accuracy, _, averaged = figures(evaluate(finished_run / "best.pt", path))
    assert (accuracy, averaged) == (alone, 100)


def test_a_data_set_of_other_images_or_classes(finished_run, small_data, small_npz, tmp_path):
    """Other images of the same classes are warned of, other classes are refused."""
    best = finished_run / "best.pt"
    assert evaluate(best, small_npz).err == ""
    swapped = {"train_images": small_data.train_images[::-1]}
    outcome = evaluate(best, save_npz(tmp_path / "small.npz", small_data, **swapped))
    assert outcome.status == 0
    assert "may have been trained on some of these images" in outcome.err
    evaluate(best, "digits").assert_refused("best.pt has 3 classes", "digits has 10")

    nameless = save_npz(tmp_path / "nameless.npz", small_data, classes=None)
    assert figures(evaluate(best, nameless)) == figures(evaluate(best, small_npz))
    labels = {"train_labels": np.arange(96) % 4, "test_labels": np.arange(33) % 4}
    more = save_npz(tmp_path / "more.npz", small_data, classes=None, **labels)
    evaluate(best, more).assert_refused("best.pt has 3 classes", "more has 4")
    evaluate(tmp_path / "no.pt", small_npz).assert_refused("no.pt is missing")
