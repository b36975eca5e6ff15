"""Muon's step, against torch's own and against what it promises."""

import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(24, 27), (48, 288), (128, 112), (1, 9), (5, 1)])
def test_orthogonal_has_singular_values_near_one_and_the_same_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    aligned = u.T @ orthogonal(matrix) @ v.T
    assert torch.allclose(aligned, torch.diag(aligned.diagonal()), atol=1e-3)
    assert torch.allclose(orthogonal(1000 * matrix), orthogonal(matrix), atol=1e-3)


def test_orthogonal_of_nothing_is_nothing():
    assert torch.equal(orthogonal(torch.zeros(4, 9)), torch.zeros(4, 9))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_steps_are_those_of_torchs_muon_but_for_its_rounding(memory_format):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(32, 8, 3, 3, generator=generator)
    ours = nn.Parameter(start.clone().to(memory_format=memory_format))
    theirs = nn.Parameter(start.flatten(1).clone())
    settings = {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9}
    optimizers = Muon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(5):
        gradient = torch.randn(start.shape, generator=generator)
        ours.grad = gradient.to(memory_format=memory_format)
        theirs.grad = gradient.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    moved = (ours - start).flatten(1), theirs - start.flatten(1)
    assert (moved[0] - moved[1]).norm() < 0.03 * moved[1].norm()  # theirs has 8 bits of precision


def test_a_weight_without_gradient_stays():
    weight = nn.Parameter(torch.ones(2, 2, 1, 1))
    Muon([weight], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(weight, torch.ones(2, 2, 1, 1))
