"""PyTorch's MNIST example on scikit-learn's digits: python examples/mnist.py

After https://github.com/pytorch/examples/blob/main/mnist/main.py
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    """Two convolutions and two linear layers for images `[n, 1, 8, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(1024, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.dropout(F.max_pool2d(x, 2)), 1)
        return F.log_softmax(self.fc2(self.dropout(F.relu(self.fc1(x)))), dim=1)


def train(model: nn.Module, train_loader: Iterable, optimizer: optim.Optimizer) -> float:
    """One epoch."""
    model.train()
    for data, target in train_loader:
        optimizer.zero_grad()
        loss = F.nll_loss(model(data), target)
        loss.backward()
        optimizer.step()
    return loss.item()


def test(model: nn.Module, test_loader: DataLoader) -> tuple[float, float]:
    """The mean cost and the accuracy."""
    model.eval()
    test_loss, correct = 0, 0
    with torch.no_grad():
        for data, target in test_loader:
            output = model(data)
            test_loss += F.nll_loss(output, target, reduction="sum").item()
            correct += (output.argmax(dim=1) == target).sum().item()
    return test_loss / len(test_loader.dataset), correct / len(test_loader.dataset)


def main() -> None:
    """Trains 8 epochs."""
    torch.manual_seed(1)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    dataset = TensorDataset(images, torch.tensor(digits.target))
    train_set, test_set = torch.utils.data.random_split(dataset, [1500, 297])
    train_loader = DataLoader(train_set, batch_size=64, shuffle=True)
    test_loader = DataLoader(test_set, batch_size=1000)
    model = Net()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = StepLR(optimizer, step_size=1, gamma=0.7)
    for epoch in range(8):
        cost = train(model, train_loader, optimizer)
        test_cost, accuracy = test(model, test_loader)
        print(f"epoch {epoch}: cost {cost:.4f}, test {test_cost:.4f}, accuracy {accuracy:.3f}")
        scheduler.step()


if __name__ == "__main__":
    main()
