from torch import nn


def conv_bn(i, o, **kwargs):
    return nn.Sequential(nn.Conv2d(i, o, 3, bias=False, **kwargs), nn.BatchNorm2d(o), nn.ReLU())


class CIFAR10Model(nn.Module):
    """Strides in 1x1 convolutions, which the assignment does not allow."""

    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential()
        channels = 3
        for n, width in enumerate((16, 32, 48), start=1):
            block = nn.Sequential(conv_bn(channels, width, padding=1))
            if n > 1:
                dw = nn.Conv2d(width, width, 3, padding=1, groups=width)
                block.append(nn.Sequential(dw, nn.Conv2d(width, width, 1), nn.ReLU()))
            self.features.add_module(f"conv_block_{n}", block)
            self.features.add_module(f"trans_block_{n}", nn.Conv2d(width, width, 1, stride=2))
            channels = width
        last = conv_bn(48, 64, padding=2, dilation=2)
        self.features.add_module("conv_block_4", nn.Sequential(last, conv_bn(64, 64, padding=1)))
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes)
        )

    def forward(self, x):
        return self.classifier(self.features(x))
