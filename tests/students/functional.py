"""Layers beside each other, with functions in place of modules and a helper file."""

from torch import nn
from torch.nn import functional as F

from data import PADDING, depthwise


class SimpleNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.depthwise, self.pointwise = depthwise(32), nn.Conv2d(32, 32, 1)
        self.conv3 = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.conv4 = nn.Conv2d(32, 48, 3, stride=2, padding=1)
        self.conv5 = nn.Conv2d(48, 48, 3, padding=PADDING[2], dilation=2)
        self.bn1, self.bn2 = nn.BatchNorm2d(32), nn.BatchNorm2d(48)
        self.out = nn.Linear(48, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv2(F.relu(self.conv1(x)))))
        x = F.dropout(F.relu(self.pointwise(self.depthwise(x))), 0.1, training=self.training)
        x = F.relu(self.bn2(self.conv4(F.relu(self.conv3(x)))))
        x = F.relu(self.conv5(x))
        x = F.adaptive_avg_pool2d(x, 1)
        return self.out(x.reshape(x.shape[0], -1))
