"""A GAN with two optimizers on eight points of a circle: python examples/gan.py

Kill it at any moment and start it again with the same RUNBACK_KEY: it continues, bit-identical.
"""

import torch
from torch import nn

import runback

PARAMS = {"lr": 1e-3, "latent": 8, "width": 64, "batch_size": 128, "batches": 20}


def network(n_inputs: int, n_outputs: int) -> nn.Module:
    """Two hidden layers."""
    width = PARAMS["width"]
    return nn.Sequential(
        nn.Linear(n_inputs, width), nn.LeakyReLU(0.2),
        nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, n_outputs),
    )  # fmt: skip


def real_points(n: int) -> torch.Tensor:
    """Points `[n, 2]` near eight places of the unit circle."""
    angles = torch.randint(8, (n,)) * (torch.pi / 4)
    return torch.stack([angles.cos(), angles.sin()], dim=1) + 0.02 * torch.randn(n, 2)


def main() -> None:
    """Trains 30 epochs."""
    torch.manual_seed(0)
    n, latent = int(PARAMS["batch_size"]), int(PARAMS["latent"])
    generator, critic = network(latent, 2), network(2, 1)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=PARAMS["lr"], betas=(0.5, 0.999))
    d_optimizer = torch.optim.Adam(critic.parameters(), lr=PARAMS["lr"], betas=(0.5, 0.999))
    loss = nn.BCEWithLogitsLoss()
    real, fake = torch.ones(n, 1), torch.zeros(n, 1)

    with runback.run("gan", params=PARAMS) as run:
        run.keep(
            generator=generator, critic=critic, g_optimizer=g_optimizer, d_optimizer=d_optimizer
        )
        for _ in run.epochs(30):
            for _ in range(int(PARAMS["batches"])):
                made = generator(torch.randn(n, latent))
                d_cost = loss(critic(real_points(n)), real) + loss(critic(made.detach()), fake)
                d_optimizer.zero_grad()
                d_cost.backward()
                d_optimizer.step()

                g_cost = loss(critic(made), real)
                g_optimizer.zero_grad()
                g_cost.backward()
                g_optimizer.step()
            run.log(g_cost=g_cost, d_cost=d_cost)
        radius = generator(torch.randn(1000, latent)).norm(dim=1)
        run.log_final(radius_error=(radius - 1).abs().mean())
        run.register(generator, example=torch.randn(1, latent))


if __name__ == "__main__":
    main()
