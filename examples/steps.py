"""A loop by steps with gradient accumulation and an average of the weights: python examples/steps.py"""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import runback

PARAMS = {"lr": 0.01, "accumulate": 4, "decay": 0.98}


def main() -> None:
    """Trains 300 steps of four batches each."""
    torch.manual_seed(0)
    x = torch.linspace(-3, 3, 600).unsqueeze(1)
    loader = DataLoader(TensorDataset(x, x.sin() + 0.1 * torch.randn_like(x)), 16, shuffle=True)
    model = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Dropout(0.05), nn.Linear(32, 1))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(PARAMS["decay"]))
    optimizer = torch.optim.Adam(model.parameters(), lr=PARAMS["lr"])

    with runback.run("steps", params=PARAMS, checkpoint_every=20) as run:
        run.keep(model=model, average=average, optimizer=optimizer)
        batches = run.batches(loader)
        for step in run.steps(300):
            optimizer.zero_grad()
            for _ in range(int(PARAMS["accumulate"])):
                features, targets = next(batches)
                cost = nn.functional.mse_loss(model(features), targets)
                (cost / PARAMS["accumulate"]).backward()
            optimizer.step()
            average.update_parameters(model)
            if step % 10 == 9:
                run.log(cost=cost)
        average.eval()
        run.log_final(test_cost=nn.functional.mse_loss(average(x), x.sin()))
        run.register(average.module, example=x[:1])


if __name__ == "__main__":
    main()
