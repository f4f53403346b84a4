"""A user's dataset of noisy images with classes, and a module with batch norm and dropout."""

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset


class Images(Dataset):
    """Images `[2, 4, 4]`; each reading adds noise. The classes are 0, 2 and 7."""

    def __init__(self, n=30, classes=(0, 2, 7)):
        generator = torch.Generator().manual_seed(n)
        self.images = torch.randn(n, 2, 4, 4, generator=generator)
        self.classes = [classes[index % len(classes)] for index in range(n)]

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, index):
        image = self.images[index] + self.classes[index] / 4
        return image + 0.01 * torch.randn(2, 4, 4), self.classes[index]


class Heights(Images):
    """The same images, with two numbers to predict."""

    target_names = ("mean", "first")

    def __getitem__(self, index):
        image = self.images[index]
        return image.tolist(), [image.mean().item(), image[0, 0, 0].item()]


class Net(nn.Module):
    def __init__(self, n_features, n_targets, shape):
        super().__init__()
        self.convolution = nn.Conv2d(shape[0], 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.2)
        self.linear = nn.Linear(4 * 2 * 2, n_targets)

    def forward(self, x):
        x = torch.relu(self.norm(self.convolution(x)))
        return self.linear(self.dropout(x.flatten(1)))


class Stream(IterableDataset):
    """The samples of `Images`, in an order of its own."""

    def __init__(self, n=30, end=None):
        self.images, self.end = Images(n), end

    def __iter__(self):
        for index in range(len(self.images))[: self.end]:
            yield self.images[7 * index % len(self.images)]


class Copies(Images):
    """The same noisy images, to be reproduced."""

    def __getitem__(self, index):
        image, _ = super().__getitem__(index)
        return image, image


class Masks(Images):
    """The same noisy images, and for each pixel whether it is dark, light (2) or very light (5)."""

    def __getitem__(self, index):
        image, _ = super().__getitem__(index)
        level = self.images[index, 0]
        return image, (level > 0).long() * 2 + (level > 1).long() * 3


class PixelNet(nn.Module):
    """`[n, channels, h, w] -> [n, outputs, h, w]`; `outputs` is n_targets where it is 0."""

    def __init__(self, n_features, n_targets, shape, outputs=0):
        super().__init__()
        self.first = nn.Conv2d(shape[0], 8, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.second = nn.Conv2d(8, outputs or n_targets, 1)

    def forward(self, x):
        return self.second(self.dropout(torch.relu(self.first(x))))
