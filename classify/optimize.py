"""What changes the weights: optimizers, learning rates by epoch, and the weights' moving average."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from classify.config import TrainConfig
from classify.weights import put_in

State = dict[str, Tensor]


def optimizer_of(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """Of the parameters that train."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    rates: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(trained, momentum=config.momentum, **rates)
        case "adagrad":
            return torch.optim.Adagrad(trained, **rates)
        case "rmsprop":
            return torch.optim.RMSprop(trained, **rates)
        case "adam":
            return torch.optim.Adam(trained, **rates)
        case "adamw":
            return torch.optim.AdamW(trained, **rates)


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """Of an epoch, counted from 0: halved (`lr_factor`) every `lr_step` epochs, or along half a cosine."""
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * epoch / config.epochs)) / 2
    return config.learning_rate * config.lr_factor ** (epoch // config.lr_step)


def move(average: State, model: nn.Module, decay: float) -> None:
    """A step of the moving average: decay * average + (1 - decay) * weights; counters are taken as they are."""
    now = model.state_dict()
    for name, mean in average.items():
        if mean.is_floating_point():
            mean.lerp_(now[name], 1 - decay)
        else:
            mean.copy_(now[name])


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """A parameter or buffer."""
    place, _, own = name.rpartition(".")
    return getattr(model.get_submodule(place), own)


def copied(model: nn.Module, names: Iterable[str]) -> State:
    """These tensors of the model, as they are now."""
    return {name: tensor_of(model, name).detach().clone() for name in names}


@contextmanager
def wearing(model: nn.Module, tensors: State) -> Iterator[None]:
    """The model with these tensors for its own, and then with its own again."""
    if not tensors:
        yield
        return
    own = copied(model, tensors)
    put_in(model, tensors)
    try:
        yield
    finally:
        put_in(model, own)
