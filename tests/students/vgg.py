import torch.nn as nn
import torch.nn.functional as F

dropout_value = 0.05


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        # CONVOLUTION BLOCK 1, 32x32 -> 16x16
        self.convblock1 = nn.Sequential(
            nn.Conv2d(in_channels=3, out_channels=16, kernel_size=(3, 3), padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(dropout_value),
            nn.Conv2d(16, 32, kernel_size=(3, 3), padding=1, stride=2, bias=False),
            nn.ReLU(),
        )
        self.convblock2 = nn.Sequential(
            nn.Conv2d(32, 32, kernel_size=(3, 3), padding=1, groups=32, bias=False),
            nn.Conv2d(32, 48, kernel_size=(1, 1), bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Dropout2d(dropout_value),
            nn.Conv2d(48, 48, kernel_size=(3, 3), padding=1, stride=2, bias=False),
            nn.ReLU(),
        )
        self.convblock3 = nn.Sequential(
            nn.Conv2d(48, 64, kernel_size=(3, 3), padding=1, stride=2, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )
        self.convblock4 = nn.Sequential(
            nn.Conv2d(64, 64, kernel_size=(3, 3), padding=1, dilation=2, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
        )
        self.gap = nn.Sequential(nn.AvgPool2d(kernel_size=2))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = self.convblock1(x)
        x = self.convblock2(x)
        x = self.convblock3(x)
        x = self.convblock4(x)
        x = self.gap(x)
        x = x.view(-1, 64)
        return F.log_softmax(self.fc(x), dim=-1)
