"""The tables of a finished run are of its best network, not of the last one."""

from dataclasses import replace

import numpy as np
import torch

from data import DeviceBatches
from model import build_network
from recipe import Recipe
from records import names
from records.checkpoints import load_checkpoint
from records.run import ClassRow, LogRow, read_confusion
from records.tables import read_rows
from report.results import draw_results
from training.trainer import Trainer


def test_matrix_and_report_are_of_the_best_network(small_data, finished_run, tmp_path):
    """It makes no mistake, so that three wrong labels of class 0 show where one would stand."""
    labels = small_data.test_labels.copy()
    labels[[0, 3, 6]] = 1
    data, cpu = replace(small_data, test_labels=labels), torch.device("cpu")
    recipe = Recipe(epochs=2, batch_size=32, augment="device")
    untrained = Trainer(build_network(num_classes=3, width=0.5), data, recipe, cpu)
    best = load_checkpoint(finished_run / names.BEST)
    log = read_rows(finished_run / names.TRAIN_LOG, LogRow)
    draw_results(tmp_path, untrained, best, log, next(DeviceBatches(data, recipe, cpu).epoch(1)))

    counts = [[8, 0, 0], [3, 11, 0], [0, 0, 11]]  # rows true, columns predicted
    np.testing.assert_array_equal(read_confusion(tmp_path).to_numpy(), counts)
    report = read_rows(tmp_path / names.CLASS_REPORT, ClassRow)
    assert [(row.precision, row.recall, row.f1, row.images) for row in report] == [
        (72.73, 100, 84.21, 8),
        (100, 78.57, 88, 14),
        (100, 100, 100, 11),
    ]
