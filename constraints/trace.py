"""What the logits of a network depend on: its layers and its receptive field, in both modes."""

import io
import re
from contextlib import redirect_stdout

import torch
from torch import Tensor, nn

from console.errors import UserError
from constraints.flow import Trace
from constraints.layers import memory, private_copy, random_images
from recipe import IMAGE_SIZE


def trace(network: nn.Module, num_classes: int | None = None) -> Trace:
    """Records `network` in evaluation mode and in training mode.

    What its own code raises is raised here too, and so is an error of its backward pass.

    Args:
        num_classes: None stands for any number.

    Raises:
        UserError: images (B, 3, 32, 32), or a single one in evaluation mode, do not give logits
            (B, num_classes); or a layer is lazy or not registered.
    """
    network = private_copy(network)
    for name, parameter in network.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise UserError(
                f"the network has a lazy layer, and {name} has no shape yet; use a layer with a "
                "given input size, nn.Linear for example"
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        traced = Trace(network.eval(), random_images(network, 2))
        _check_logits(traced.logits, 2, num_classes, "evaluation")
        with redirect_stdout(io.StringIO()):  # a network that prints does it once
            traced.training = _trace_training(network.train())
            count = len(traced.training.images)
            _check_logits(traced.training.logits, count, num_classes, "training")
            _check_logits(network.eval()(traced.images[:1]), 1, num_classes, "evaluation")
    for mode in (traced, traced.training):
        _check_registered(mode)
        mode.blocks_are_guessed = not _set_blocks(mode)
    loss = traced.training.logits.sum()
    if loss.requires_grad:
        inputs = [traced.training.images, *(x for x in network.parameters() if x.requires_grad)]
        torch.autograd.grad(loss, inputs, allow_unused=True, retain_graph=True)
    return traced


def _trace_training(network: nn.Module) -> Trace:
    """With a number of images that ghost batch norm can split."""
    try:
        return Trace(network, random_images(network, 16))
    except Exception:  # a network may raise anything for a number that it cannot split
        return Trace(network, random_images(network, 240))


def _check_logits(logits: object, count: int, num_classes: int | None, mode: str) -> None:
    shape, found = list(logits.shape) if isinstance(logits, Tensor) else [], ""
    classes = num_classes or (shape[1] if len(shape) == 2 else "classes")
    if shape != [count, classes]:
        found = f"a {type(logits).__name__} {shape or ''}".strip()
    elif (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(()), atol=1e-4):
        found = "probabilities; leave out the softmax, which is part of the loss"
    if found:
        raise UserError(
            f"the network must turn images {[count, 3, IMAGE_SIZE, IMAGE_SIZE]} into logits "
            f"[{count}, {classes}], but in {mode} mode it returns {found}"
        )


def _check_registered(traced: Trace) -> None:
    known = set(map(memory, traced.network.parameters()))
    for each in (x for step in traced.steps for x in step.inputs):
        if isinstance(each, nn.Parameter) and memory(each) not in known:
            raise UserError(
                f"the network uses a parameter {list(each.shape)} that is not registered, so it "
                "would not be trained; make layers in __init__, and keep several of them in "
                "nn.Sequential or nn.ModuleList, not in a list"
            )


def _set_blocks(traced: Trace) -> bool:
    """Sets the block of each step; returns whether the names of the modules tell it.

    They do if one prefix ("c" of "c2a.dw", "features.conv_block_") has exactly the numbers 1 to 4,
    in the order in which the layers run; of several such, the one of most layers. A step outside of
    the blocks belongs to the one that ran before it. In a network whose names tell nothing, the
    next block begins where the map is halved; strides side by side count once.
    """
    numbers: dict[str, list[int]] = {}  # by prefix, of the layers that have it
    for layer in traced.layers:
        for found in re.finditer(r"(?<=[^.\d])\d+", layer.name):
            numbers.setdefault(layer.name[: found.start()], []).append(int(found[0]))
    named = [x for x in numbers if sorted({*numbers[x]}) == [1, 2, 3, 4]]
    named = [x for x in named if sorted(numbers[x]) == numbers[x]]
    prefix = max(named, key=lambda x: len(numbers[x]), default=None)
    layer_of, block, halved = {id(x.step): x for x in traced.layers}, 1, set()
    for step in traced.steps:
        layer = layer_of.get(id(step))
        if prefix is None and layer and layer.downsamples:
            halved.add(layer.before.jump)
            block = min(4, 1 + len(halved))
        elif prefix and (found := re.match(re.escape(prefix) + r"([1-4])(?!\d)", step.module)):
            block = int(found[1])
        step.block = block
    return prefix is not None
