import torch.nn as nn
import torch.nn.functional as F


class SeparableConv(nn.Module):
    def __init__(self, nin, nout, stride=1, dilation=1):
        super().__init__()
        self.depthwise = nn.Conv2d(nin, nin, 3, stride, dilation, dilation, groups=nin, bias=False)
        self.pointwise = nn.Conv2d(nin, nout, 1, bias=False)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


class EVA8(nn.Module):
    def __init__(self, norm="BN", drop=0.1):
        super().__init__()

        def layer(conv, channels):
            norms = {"BN": nn.BatchNorm2d(channels), "LN": nn.GroupNorm(1, channels)}
            return nn.Sequential(conv, norms[norm], nn.ReLU(inplace=True), nn.Dropout(drop))

        self.C1 = nn.Sequential(
            layer(nn.Conv2d(3, 16, 3, padding=1), 16),
            layer(nn.Conv2d(16, 32, 3, stride=2, padding=1), 32),
        )
        self.C2 = nn.Sequential(
            layer(SeparableConv(32, 32), 32), layer(SeparableConv(32, 48, stride=2), 48)
        )
        self.C3 = nn.Sequential(layer(SeparableConv(48, 64, stride=2), 64))
        self.C4 = nn.Sequential(layer(SeparableConv(64, 64, dilation=2), 64))
        self.O = nn.Sequential(nn.AdaptiveAvgPool2d((1, 1)), nn.Conv2d(64, 10, 1, bias=False))

    def forward(self, x):
        x = self.O(self.C4(self.C3(self.C2(self.C1(x)))))
        return F.log_softmax(x.view(x.size(0), -1), dim=1)
