"""Blocks are known by their names, and what is checked by assignment.toml."""

from collections import OrderedDict

import edit_layers as layers
import pytest
import torch.nn.functional as F
from runs import run_script
from test_constraints import BROKEN, DILATION, FIELD, SEPARABLE, failed, found_of
from torch import nn

from constraints.assignment import Assignment, read_assignment
from constraints.checks import check
from constraints.tables import tally_table
from constraints.trace import trace

STEPS = [  # input and output channels, stride and dilation of two convolutions; what separates them
    [(3, 8, 1, 1), (8, 12, 2, 1)],
    [(12, 12, 1, 1), (12, 16, 2, 1)],
    [(16, 16, 1, 1), (16, 24, 2, 1)],
    [(24, 24, 1, 2), (24, 32, 1, 1)],
]


def blocks_of_names(*names: str) -> nn.Sequential:
    """Blocks of these names; the first convolution of the second one is separable."""
    blocks = OrderedDict()
    for index, name in enumerate(names):
        blocks[name] = nn.Sequential()
        for cin, cout, stride, dilation in STEPS[min(index, 3)]:
            groups = cin if (index, stride) == (1, 1) else 1
            given = {"padding": dilation, "dilation": dilation, "groups": groups}
            blocks[name].append(nn.Conv2d(cin, cout, 3, stride, **given))
            if groups > 1:
                blocks[name].append(nn.Conv2d(cout, cout, 1))
    return nn.Sequential(blocks)


def headed(features: nn.Module, gap: nn.Module | None = None) -> nn.Module:
    gap = gap or nn.AdaptiveAvgPool2d(1)
    tail = {"gap": gap, "flat": nn.Flatten(), "fc": nn.Linear(32, 10)}
    return nn.Sequential(OrderedDict(features=features, **tail))


FORMS = (
    "convblock{}",
    "conv_block_{}",
    "block{}",
    "layer{}",
    "stage{}",
    "block_c{}",
    "c{}",
    "C_{}",
)


@pytest.mark.parametrize("form", [*FORMS, "conv2d_{}", "c{}x", "conv{}_1"])
def test_names_of_modules_tell_their_blocks(form):
    net = headed(blocks_of_names(*(form.format(number) for number in (1, 2, 3, 4))))
    for each in (net, nn.Sequential(OrderedDict(net=net)), headed(nn.Sequential(net.features))):
        traced = trace(each)
        blocks = [x.block for x in traced.layers if x.is_convolution]
        assert blocks == [1, 1, 2, 2, 2, 3, 3, 4, 4]
        assert not traced.blocks_are_guessed
        assert [str(found) for found in check(traced) if not found.passed] == []
    net.features[0][0] = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    net.features[3][0].dilation, net.features[2][0].dilation = (1, 1), (2, 2)
    assert failed(net)[:2] == [SEPARABLE, DILATION]


def test_blocks_that_end_with_their_strides_are_named_all_the_same():
    net = blocks_of_names("convblock1", "convblock2", "convblock3", "convblock4")
    net.convblock1[1].stride, net.convblock4[1].stride = (1, 1), (2, 2)
    assert failed(headed(net)) == [FIELD]  # it is 41


@pytest.mark.parametrize(
    "names",
    [
        ("c1", "c2", "c4", "c3"),
        ("c0", "c1", "c2", "c3"),
        ("a1", "b2", "c3", "d4"),
        ("c1", "c2", "c3", "c4", "c5"),
    ],
)
def test_other_names_tell_no_blocks(names):
    features = blocks_of_names(*names)
    if len(names) > 4:  # its counter goes on
        features.c5 = nn.Conv2d(24, 32, 1)
        features.c4[1] = nn.Conv2d(24, 24, 1)
        features[4] = nn.Conv2d(24, 32, 1)
    traced = trace(headed(features))
    assert traced.blocks_are_guessed
    assert tally_table(traced).startswith("| layer | block (guessed) | k |")


def test_guessed_blocks_begin_where_the_map_is_halved():
    skip = layers.Sum(nn.Conv2d(12, 16, 3, 2, 1), nn.Conv2d(12, 16, 3, 2, 1))
    features = blocks_of_names("a", "b", "c", "d")
    features.b[2], features.a[1] = skip, nn.Sequential(nn.Conv2d(8, 12, 1), nn.MaxPool2d(2))
    blocks = [x.block for x in trace(headed(features)).layers if x.is_convolution]
    assert blocks == [1, 1, 2, 2, 3, 3, 3, 4, 4, 4]


def test_of_several_names_the_one_of_most_layers_tells_the_blocks():
    inner = nn.Sequential()
    for number in (1, 2, 3, 4):
        inner.add_module(f"conv{number}", nn.Conv2d(3 if number == 1 else 8, 8, 1))
    net = headed(blocks_of_names("block1", "block2", "block3", "block4"))
    inner.append(nn.Conv2d(8, 8, 3, padding=1))
    net.features.block1[0] = inner
    assert [x.block for x in trace(net).layers if x.is_convolution][:7] == [1] * 6 + [2]


@pytest.mark.parametrize("gap", [nn.AvgPool2d(4), nn.AdaptiveAvgPool2d(1)])
def test_the_field_is_that_of_the_map_that_is_pooled(gap):
    """A pooling with a kernel leaves several positions of the larger image it is measured on."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.fc = blocks_of_names("c1", "c2", "c3", "c4"), nn.Conv2d(32, 10, 1)

        def forward(self, x):
            return F.log_softmax(self.fc(gap(self.net(x))).view(-1, 10), dim=-1)

    assert found_of(Net(), FIELD) == "77"


ANYWHERE = {"dilation_only_in": [1, 2, 3, 4]}
NO_DILATION = {"dilation_only_in": [], "dilation_required": False}
ANY_STRIDE = {"stride_2_convolutions": "any"}
AND_NO_OTHER = "3x3 stride-2 convolutions and no other downsampling"

# an assignment, a network of BROKEN, and what it checks in place of a usual constraint
VARIANTS = [
    (ANYWHERE, "dilation in C2", "dilation", True),
    (ANYWHERE, "no dilation", "dilation", False),
    (NO_DILATION, "dilation in C2", "no dilation", False),
    ({"dilation_required": False}, "no dilation", "no dilation outside of C4", True),
    ({"separable_not_in": []}, "separable in C1", "depthwise-separable convolutions", True),
    (
        {"separable_required": False},
        "nothing separable",
        "no depthwise-separable convolutions in C1",
        True,
    ),
    ({"stride_2_convolutions": 4}, "four strides", f"exactly four {AND_NO_OTHER}", True),
    ({"stride_2_convolutions": 0}, "two strides", f"no {AND_NO_OTHER}", False),
    (
        {"max_pooling_allowed": True, **ANY_STRIDE},
        "max-pooling by 2",
        "no downsampling but 3x3 stride 2",
        True,
    ),
    ({"other_downsampling_allowed": True, **ANY_STRIDE}, "average pooling", None, None),
    ({"global_average_pooling_required": False}, "flattened", None, None),
    ({"parameters_below": 300_000}, "too many parameters", "under 300,000 parameters", True),
    ({"receptive_field_above": 20}, "dilation times zero", "receptive field over 20", True),
]


@pytest.mark.parametrize(("values", "network", "constraint", "passed"), VARIANTS)
def test_a_variant_of_the_assignment(values, network, constraint, passed):
    traced = trace(BROKEN[network][0]())
    usual = {each.constraint for each in check(traced)}
    found = {each.constraint: each.passed for each in check(traced, Assignment(**values))}
    expected = {constraint: passed} if constraint else {}
    assert {k: v for k, v in found.items() if k not in usual} == expected


def test_the_assignments_file_has_the_defaults():
    assert read_assignment() == Assignment()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dilaton_required = true", "dilaton_required: there is no such key; there are max_pool"),
        ("max_pooling_allowed = 1", "max_pooling_allowed: "),
        ("parameters_below = true", "parameters_below: "),
        ("dilation_only_in = [5]", "dilation_only_in: Input should be 1, 2, 3 or 4"),
        ("stride_2_convolutions = 'all'", "stride_2_convolutions: "),
        ("accuracy = inf", "accuracy: "),
        ("x = [", "is no TOML file: "),
        (None, "No such file"),
    ],
)
def test_a_wrong_assignment_is_one_line_that_names_the_key(text, message, tmp_path):
    path = tmp_path / "mine.toml"
    if text:
        path.write_text(text)
    run_script("model", "--assignment", path).assert_refused("mine.toml", message)
