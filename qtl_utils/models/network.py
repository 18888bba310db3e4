"""A backbone and a head as one model, and one epoch of its training."""

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot, pad, unfold

EVALUATION_BATCH = 96  # images per forward pass when a network is evaluated; many more leave the cache
FEW_PIXELS = 4  # that a convolution gives of an image; see `SmallConv2d`


class Network(nn.Module):
    """A backbone and a head, trained or run as one."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head
        for module in backbone.modules():
            if _is_plain(module):
                module.__class__ = SmallConv2d  # same weights, same state

    def forward(self, pixels):
        return self.head(self.backbone(pixels))


def _is_plain(module: nn.Module) -> bool:
    """torch's own convolution of all channels, a kernel without holes and with borders of zeros, smaller than it."""
    if type(module) is not nn.Conv2d or module.groups != 1 or module.dilation != (1, 1):
        return False
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return False
    return all(border < kernel for border, kernel in zip(module.padding, module.kernel_size, strict=True))


class SmallConv2d(nn.Conv2d):
    """torch's convolution, on a processor as a matrix product where the output has few pixels: equal up to rounding.

    The last convolutions of a ResNet see 1 or 4 pixels when images are small. oneDNN takes long for them, and longer
    still for a single pixel, of which all but one tap of the kernel fall beside the image.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # (B, C, H, W)
        if x.device.type != "cpu" or x.dim() != 4:
            return super().forward(x)
        sizes = zip(x.shape[2:], self.padding, self.kernel_size, self.stride, strict=True)
        height, width = [(n + 2 * border - kernel) // stride + 1 for n, border, kernel, stride in sizes]
        if min(height, width) < 1 or height * width > FEW_PIXELS:
            return super().forward(x)
        if height * width == 1:
            out = self._one_pixel(x)
        else:
            columns = unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)  # (B, C * taps, pixels)
            out = columns.transpose(1, 2) @ self.weight.flatten(1).T  # (B, pixels, channels)
            out = out.transpose(1, 2)
        if self.bias is not None:
            out = out + self.bias[:, None]
        return out.reshape(len(x), self.out_channels, height, width)

    def _one_pixel(self, x: torch.Tensor) -> torch.Tensor:
        """The output (B, channels, 1), from the part of the kernel that meets the image."""
        top, left = self.padding
        height, width = self.kernel_size
        seen = x[:, :, : height - top, : width - left]
        bottom = height - top - seen.shape[2]
        right = width - left - seen.shape[3]
        taps = pad(self.weight, (-left, -right, -top, -bottom))  # cuts off; one operation, its gradient another
        return (seen.flatten(1) @ taps.flatten(1).T)[:, :, None]


def sample_losses(logits: torch.Tensor, targets: torch.Tensor, loss: str) -> torch.Tensor:
    """The loss (n,) of every sample from its logits (n, K) and its class (n,); 0 where that is -1, no sample.

    loss: "cross-entropy"; or "squared", the mean over classes of the squared distance to 1 for the class, 0 for others.
    """
    if loss == "cross-entropy":
        return cross_entropy(logits, targets, reduction="none", ignore_index=-1)
    wanted = one_hot(targets.clamp(min=0), logits.shape[-1])
    return (logits - wanted).square().mean(-1) * (targets >= 0)


def batch_loss(logits: torch.Tensor, targets: torch.Tensor, loss: str, reduction: str = "mean") -> torch.Tensor:
    """Mean or sum of `sample_losses` over a batch without padding."""
    if loss == "cross-entropy":
        return cross_entropy(logits, targets, reduction=reduction)  # a fused kernel of torch's
    return getattr(sample_losses(logits, targets, loss), reduction)()


def batch_of(pixels: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """The samples `index` of `pixels`; images on a processor with neighbouring channels, which convolutions prefer."""
    batch = pixels.index_select(0, torch.as_tensor(index, device=pixels.device))
    if batch.dim() == 4 and batch.device.type == "cpu":
        batch = batch.contiguous(memory_format=torch.channels_last)
    return batch


def train_epoch(model, optimizer, pixels, labels, order, config) -> tuple[float, float]:
    """One pass over `order`; returns the mean loss and accuracy met on the way.

    A last batch of one image joins the batch before it: BatchNorm cannot normalise a single value per channel.
    """
    model.train()
    starts = [*range(0, len(order), config.batch_size)]
    if len(starts) > 1 and len(order) - starts[-1] == 1:
        starts.pop()
    losses = []
    counts = []
    right = []
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        index = order[start:end]
        logits = model(batch_of(pixels, index))
        target = labels[index]
        loss = batch_loss(logits, target, config.loss, config.reduction)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        counts.append(len(index) if config.reduction == "mean" else 1)
        right.append((logits.argmax(1) == target).sum())
    # read once an epoch: an accelerator would be waited for
    loss_sum = np.dot(torch.stack(losses).tolist(), counts)
    return loss_sum / len(order), sum(torch.stack(right).tolist()) / len(order)


@torch.no_grad()
def network_logits(model: nn.Module, pixels: torch.Tensor, index: np.ndarray) -> torch.Tensor:
    """Logits (n, K) of the samples `index`, in eval mode."""
    model.eval()
    parts = np.array_split(index, math.ceil(len(index) / EVALUATION_BATCH))
    return torch.cat([model(batch_of(pixels, part)) for part in parts])
