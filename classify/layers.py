"""Networks and layers of our own: the study's small network, and what joins a trunk and a head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classify.data import MEAN, STD


class SmallCNN(nn.Module):
    """The study's simple network: four blocks of convolution, batch norm and ReLU, pooling in between.

    The first convolution has stride 2; the last map, a sixteenth of the side, is what the heatmaps are drawn from.
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (16, 32, 64, 128)) -> None:
        super().__init__()
        ins = (3, *widths)
        self.features = nn.Sequential(
            *(
                _conv_block(ins[i], width, stride=2 if i == 0 else 1, pool=i + 1 < len(widths))
                for i, width in enumerate(widths)
            )
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> logits (n, num_classes)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class Dropout(nn.Dropout):
    """`nn.Dropout`, which on a processor takes 12 ns to draw for an element, in a quarter of the time."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        kept = torch.rand(x.shape).ge_(self.p).div_(max(1 - self.p, torch.finfo(torch.float32).tiny))
        return x * kept.to(x.dtype)


class Renormalised(nn.Module):
    """Images that were normalised with ImageNet's mean and deviation, as they are normalised with `mean` and `std`."""

    def __init__(self, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)) -> None:
        super().__init__()
        self.mean, self.std = tuple(mean), tuple(std)
        scale = [ours / theirs for ours, theirs in zip(STD, std, strict=True)]
        shift = [(ours - theirs) / deviation for ours, theirs, deviation in zip(MEAN, mean, std, strict=True)]
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) -> the same shape."""
        return x * self.get_buffer("scale") + self.get_buffer("shift")


class Tokens(nn.Module):
    """The first layer of torchvision's vision transformer: an image's patches and the class token, with positions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.conv_proj, self.dropout = model.get_submodule("conv_proj"), model.get_submodule("encoder.dropout")
        self.class_token = model.get_parameter("class_token")
        self.pos_embedding = model.get_parameter("encoder.pos_embedding")

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, side, side) -> (n, 1 + patches, channels)."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)
        return self.dropout(tokens + self.pos_embedding)


class ClassToken(nn.Module):
    """What the head of a vision transformer sees of the tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, 1 + patches, channels) -> (n, channels)."""
        return tokens[:, 0]


class Tail(nn.Module):
    """The last layers of a model, and the one among them, `map`, whose output Grad-CAM explains."""

    def __init__(self, layers: nn.Module, explained: nn.Module) -> None:
        super().__init__()
        self.layers, self.map = layers, explained

    def forward(self, x: Tensor) -> Tensor:
        """What the layers before gave -> logits (n, classes)."""
        return self.layers(x)


def _conv_block(ins: int, outs: int, stride: int, pool: bool) -> nn.Sequential:
    convolution = nn.Conv2d(ins, outs, 3, stride=stride, padding=1, bias=False)
    block = (convolution, nn.BatchNorm2d(outs), nn.ReLU(inplace=True))
    return nn.Sequential(*block, *([nn.MaxPool2d(2)] if pool else []))
