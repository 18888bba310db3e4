"""A backbone and a head as one model, and one epoch of its training."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

EVALUATION_BATCH = 128  # images per forward pass when a network is evaluated


class Network(nn.Module):
    """A backbone and a head, trained or run as one."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, pixels):
        return self.head(self.backbone(pixels))


def train_epoch(model, optimizer, pixels, labels, order, config) -> tuple[float, float]:
    """One pass over `order`; returns the mean loss and accuracy met on the way.

    A last batch of one image joins the batch before it: BatchNorm cannot normalise a single value per channel.
    """
    model.train()
    starts = [*range(0, len(order), config.batch_size)]
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    loss_sum = 0.0
    right = 0
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        index = order[start:end]
        logits = model(pixels[index])
        target = labels[index]
        loss = cross_entropy(logits, target, reduction=config.reduction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss_sum += loss.item() * (len(index) if config.reduction == "mean" else 1)
        right += (logits.argmax(1) == target).sum().item()
    return loss_sum / len(order), right / len(order)


@torch.no_grad()
def network_logits(model: nn.Module, pixels: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """Logits (n, K) of the samples `index`, in eval mode."""
    model.eval()
    parts = np.array_split(index, math.ceil(len(index) / EVALUATION_BATCH))
    return torch.cat([model(pixels[part]) for part in parts])
