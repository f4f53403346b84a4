"""A character model with loader workers: python examples/characters.py

A killed run continues inside its epoch.
"""

import argparse
import inspect

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import runback

LENGTH = 64
TEXT = inspect.getsource(argparse)[:40_000]
ALPHABET = sorted(set(TEXT))


class Characters(Dataset[tuple[Tensor, Tensor]]):
    """Pieces of the text, and the same pieces one character later."""

    def __init__(self) -> None:
        self.codes = torch.tensor([ALPHABET.index(character) for character in TEXT])

    def __len__(self) -> int:
        return (len(self.codes) - 1) // LENGTH

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * LENGTH
        return self.codes[start : start + LENGTH], self.codes[start + 1 : start + LENGTH + 1]


class Model(nn.Module):
    """An LSTM that predicts the next character."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), width)
        self.lstm = nn.LSTM(width, width, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.output = nn.Linear(width, len(ALPHABET))

    def forward(self, codes: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embedding(codes))
        return self.output(self.dropout(hidden))


def main() -> None:
    """Trains 6 epochs."""
    torch.manual_seed(0)
    loader = DataLoader(Characters(), batch_size=32, shuffle=True, num_workers=2)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    loss = nn.CrossEntropyLoss()

    with runback.run("characters", params={"lr": 3e-3, "length": LENGTH}) as run:
        run.keep(model=model, optimizer=optimizer, scheduler=scheduler)
        for _ in run.epochs(6):
            run.state["total"] = 0.0  # kept inside the epoch, too
            for codes, following in run.batches(loader):
                cost = loss(model(codes).transpose(1, 2), following)
                optimizer.zero_grad()
                cost.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                run.state["total"] += cost.item()
                run.checkpoint()  # after each batch, to show it; the default is every 5 minutes
            run.log(cost=run.state["total"] / len(loader), lr=scheduler.get_last_lr()[0])
            scheduler.step()
        run.register(model, example=loader.dataset[0][0][None])


if __name__ == "__main__":
    main()
