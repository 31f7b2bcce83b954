"""One way of training the article's VAE in a process of its own, taking orders from the benchmark.

``python contenders.py NAME IMAGES.npy SEED`` trains for ever; after every batch :meth:`Pace.tick`
counts, and between slices it waits for a line on standard input: ``go STEPS``, ``dump FILE.npz``
or ``quit``. So loops that others wrote run exactly as they do for their users, and still take
turns. Only the contender's own libraries are imported.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

D, BATCH, RATE = 32, 128, 1e-3
torch.set_num_threads(1)


class Pace:
    """Runs a training in slices, on order."""

    def __init__(self) -> None:
        self.left, self.started = 0, time.process_time()
        self.weights: Callable[[], list[torch.Tensor]] = list
        self.first = True

    def tick(self) -> None:
        """Count a step; when the slice is done, report it and wait for the next order."""
        self.left -= 1
        if self.left > 0:
            return
        spent = time.process_time() - self.started
        self.say(cpu=spent, wall=time.perf_counter() - self.wall if not self.first else 0.0)
        self.first = False
        while True:
            order, _, value = sys.stdin.readline().strip().partition(" ")
            if order == "go":
                self.left, self.wall = int(value), time.perf_counter()
                self.started = time.process_time()
                return
            if order == "dump":
                arrays = [w.detach().numpy() for w in self.weights()]
                np.savez(value, *arrays)
                self.say(dumped=value)
            else:
                sys.exit(0)

    def say(self, **facts: Any) -> None:
        """Print one line of JSON."""
        print(json.dumps(facts), flush=True)


class Net(nn.Module):
    """The article's network as people write it: two heads, ReLU, sigmoid at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.mean, self.log_var = nn.Linear(256, D), nn.Linear(256, D)
        self.back = nn.Sequential(
            nn.Linear(D, 256), nn.ReLU(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 784)
        )

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        """Return BCE + KL, summed over the batch, as pytorch/examples does."""
        h = self.body(x.view(-1, 784))
        mean, log_var = self.mean(h), self.log_var(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        y = torch.sigmoid(self.back(z))
        bce = functional.binary_cross_entropy(y, x.view(-1, 784), reduction="sum")
        return bce - 0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())

    def ordered(self) -> list[torch.Tensor]:
        """Return the weights as all contenders dump them."""
        return list(self.parameters())


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """torchvision's MNIST: one PIL image, one ToTensor, for each sample."""

    def __init__(self, images: Any) -> None:
        from torchvision.transforms import ToTensor

        self.images, self.transform = torch.from_numpy(images), ToTensor()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[i].numpy(), mode="L")), 0


def article(images: Any, pace: Pace) -> None:
    """The loop of the article and of pytorch/examples' VAE, with the article's network."""
    net = Net()
    pace.weights = net.ordered
    adam = torch.optim.Adam(net.parameters(), lr=RATE)
    loader = torch.utils.data.DataLoader(Pictures(images), batch_size=BATCH, shuffle=True)
    while True:
        for x, _ in loader:
            adam.zero_grad()
            loss = net.loss(x)
            (loss / len(x)).backward()
            loss.item()
            adam.step()
            pace.tick()


def lightning(images: Any, pace: Pace) -> None:
    """PyTorch Lightning as AntixK/PyTorch-VAE uses it: log_dict with .item() at every step."""
    import pytorch_lightning as pl

    class Experiment(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch: Any, _: int) -> Any:
            loss = self.net.loss(batch[0]) / len(batch[0])
            self.log_dict({"loss": loss.item()}, sync_dist=False)
            return loss

        def on_train_batch_end(self, *_: Any) -> None:
            pace.tick()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=RATE)

    module = Experiment()
    pace.weights = module.net.ordered
    loader = torch.utils.data.DataLoader(Pictures(images), batch_size=BATCH, shuffle=True)
    pl.Trainer(
        max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(module, loader)  # fmt: skip


def pythae(images: Any, pace: Pace) -> None:
    """Pythae's own trainer, on float images in memory, no evaluation set."""
    import tempfile

    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def forward(self, x: Any) -> Any:
            h = self.net.body(x.reshape(-1, 784))
            return ModelOutput(embedding=self.net.mean(h), log_covariance=self.net.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self, back: nn.Module) -> None:
            super().__init__()
            self.back = back

        def forward(self, z: Any) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.back(z)).view(-1, 1, 28, 28))

    class Ticker(TrainingCallback):
        def on_train_step_end(self, *_: Any, **__: Any) -> None:
            pace.tick()

    encoder = Encoder()
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=D, reconstruction_loss="bce")
    model = VAE(config, encoder=encoder, decoder=Decoder(encoder.net.back))
    pace.weights = encoder.net.ordered
    data = torch.from_numpy(images).float().div(255)[:, None]
    BaseTrainer(
        model=model, train_dataset=BaseDataset(data, torch.zeros(len(data))),
        training_config=BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(), num_epochs=10_000, learning_rate=RATE,
            per_device_train_batch_size=BATCH, optimizer_cls="Adam", no_cuda=True,
        ),
        callbacks=[Ticker()],
    ).train()  # fmt: skip


def ours(images: Any, pace: Pace, seed: int, precision: str, compiled: bool) -> None:
    """Our own loop, with the article's recipe."""
    from vaesc.config import TrainingConfig, VAEConfig
    from vaesc.models import VAE
    from vaesc.progress import SILENT
    from vaesc.training.determinism import deterministic, stream
    from vaesc.training.engine import Engine
    from vaesc.training.loop import Loop
    from vaesc.training.objective import Objective
    from vaesc.training.order import Order
    from vaesc.training.resident import ResidentBatches
    from vaesc.training.state import State

    config = TrainingConfig(epochs=1000, schedule="constant", learning_rate=RATE)
    with deterministic():
        vae = VAE(VAEConfig(), (28, 28), generator=stream(seed, "train/init"))
        state = State(vae, averaged=False)
        objective = Objective(vae, config, bf16=precision == "bf16")
        engine = Engine(objective, state, compiled=compiled, batch_size=BATCH)
        batches = ResidentBatches(
            torch.from_numpy(images), Order(len(images), BATCH, images[0].nbytes, seed=seed)
        )
        loop = Loop(engine, batches, seed=seed, listener=SILENT)
        pace.weights = lambda: _split_head(list(vae.parameters()))
        for epoch in range(1, 1000):
            loop.run_epoch(epoch, on_batch=lambda _: pace.tick())


def _split_head(weights: list[torch.Tensor]) -> list[torch.Tensor]:
    head = [part for weight in weights[4:6] for part in weight.chunk(2)]
    return [*weights[:4], head[0], head[2], head[1], head[3], *weights[6:]]


def roof(precision: str, pace: Pace) -> None:
    """The step's matrix products alone: forward, and both of backward but the first layer's."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    sides = [(784, 512), (512, 256), (256, 2 * D), (D, 256), (256, 512), (512, 784)]
    layers = list(_layers(sides, dtype))
    while True:
        for i, (x, w, g) in enumerate(layers):
            _ = x @ w.t(), g.t() @ x
            if i:
                _ = g @ w
        pace.tick()


def _layers(sides: list[tuple[int, int]], dtype: torch.dtype) -> Iterator[Any]:
    for a, b in sides:
        yield tuple(torch.randn(shape).to(dtype) for shape in ((BATCH, a), (b, a), (BATCH, b)))


def contenders(seed: int) -> dict[str, Callable[[Any, Pace], None]]:
    """Return every contender by name."""
    mine = {
        f"vaesc {precision}{'' if compiled else ' eager'}": (precision, compiled)
        for precision in ("float32", "bf16")
        for compiled in (False, True)
    }
    return {
        "article": article, "lightning": lightning, "pythae": pythae,
        "roof float32": lambda _, pace: roof("float32", pace),
        "roof bf16": lambda _, pace: roof("bf16", pace),
        **{name: lambda x, p, how=how: ours(x, p, seed, *how) for name, how in mine.items()},
    }  # fmt: skip


if __name__ == "__main__":
    chosen, file, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.manual_seed(number)
    contenders(number)[chosen](np.load(file), Pace())
