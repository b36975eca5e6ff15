import torch
import torch.nn as nn
import torch.nn.functional as F


class BasicBlock(nn.Module):
    def __init__(self, in_planes, planes, stride=1, dilation=1):
        super().__init__()
        args = {"padding": dilation, "dilation": dilation, "bias": False}
        self.conv1 = nn.Conv2d(in_planes, in_planes, 3, stride, groups=in_planes, **args)
        self.point1 = nn.Conv2d(in_planes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            self.shortcut = nn.Conv2d(in_planes, planes, 3, stride, padding=1, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(self.point1(self.conv1(x))))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, num_classes=10, width=1.0):
        super().__init__()
        c = int(16 * width)
        self.conv1 = nn.Conv2d(3, c, kernel_size=3, stride=1, padding=1, bias=False)
        self.layer1 = nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))
        self.layer2 = BasicBlock(c, 2 * c, stride=2)
        self.layer3 = BasicBlock(2 * c, 2 * c, stride=2)
        self.layer4 = nn.Sequential(BasicBlock(2 * c, 3 * c, 2), BasicBlock(3 * c, 3 * c, 1, 2))
        self.linear = nn.Linear(3 * c, num_classes)

    def forward(self, x):
        x = self.layer1(self.conv1(x))
        x = self.layer4(self.layer3(self.layer2(x)))
        x = torch.mean(x, dim=[2, 3])
        return self.linear(x)
