"""FixMatch for segmentation as the papers write it down: the loop that the benchmark compares with.

fp32, Pillow and torchvision views in one worker process, three forward passes, a running average tensor by tensor,
and numbers read from the device at every step.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Pairs(Dataset[Any]):
    """Images from files: weak view, label, strong view."""

    def __init__(self, images: list[Path], masks: list[Path | None], crop: int, length: int) -> None:
        self.images, self.masks, self.crop, self.length = images, masks, crop, length
        self.jitter = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)
        self.gray = transforms.RandomGrayscale(0.2)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        k = index % len(self.images)
        image = Image.open(self.images[k]).convert("RGB")
        mask_file = self.masks[k]
        mask = Image.open(mask_file) if mask_file else Image.new("L", image.size)
        zoom = random.uniform(0.5, 1.6)
        size = (max(1, int(image.width * zoom)), max(1, int(image.height * zoom)))
        image, mask = image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)
        pad = (max(0, self.crop - size[0]), max(0, self.crop - size[1]))
        if any(pad):
            image = transforms.functional.pad(image, [0, 0, *pad])
            mask = transforms.functional.pad(mask, [0, 0, *pad], fill=255)
        left, top = random.randint(0, image.width - self.crop), random.randint(0, image.height - self.crop)
        box = (left, top, left + self.crop, top + self.crop)
        image, mask = image.crop(box), mask.crop(box)
        if random.random() < 0.5:
            flip = Image.Transpose.FLIP_LEFT_RIGHT
            image, mask = image.transpose(flip), mask.transpose(flip)
        strong = self.jitter(image) if random.random() < 0.8 else image
        strong = self.gray(strong)
        if random.random() < 0.5:
            strong = strong.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))
        return _tensor(image), torch.from_numpy(np.array(mask)).long(), _tensor(strong)


def _tensor(image: Image.Image) -> Tensor:
    made: Tensor = transforms.functional.normalize(transforms.functional.to_tensor(image), MEAN, STD)
    return made


def cutmix_boxes(batch: int, size: int) -> Tensor:
    """bool[B, H, W]: a box in half of the images."""
    boxes = torch.zeros(batch, size, size, dtype=torch.bool)
    for k in range(batch):
        if random.random() < 0.5:
            area, ratio = random.uniform(0.02, 0.4) * size * size, random.uniform(0.3, 1 / 0.3)
            height, width = min(size, int((area * ratio) ** 0.5)), min(size, int((area / ratio) ** 0.5))
            top, left = random.randint(0, size - height), random.randint(0, size - width)
            boxes[k, top : top + height, left : left + width] = True
    return boxes


class Textbook:
    """The training loop.

    Args:
        net: any network from images to logits. labeled, unlabeled: loaders of `Pairs`. thresholds: per class.
    """

    def __init__(
        self, net: nn.Module, labeled: DataLoader[Any], unlabeled: DataLoader[Any], thresholds: list[float]
    ) -> None:
        self.net, self.average = net, copy.deepcopy(net)
        self.labeled, self.unlabeled = iter(labeled), iter(unlabeled)
        self.thresholds = torch.tensor(thresholds)
        self.optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        self.history: list[tuple[float, float, float]] = []

    def step(self) -> None:
        """One iteration."""
        image, label, _ = next(self.labeled)
        weak, _, strong = next(self.unlabeled)
        with torch.no_grad():
            self.net.eval()
            probabilities = self.net(weak).softmax(1)
            self.net.train()
        confidence, pseudo = probabilities.max(1)
        kept = confidence > self.thresholds[pseudo]
        boxes = cutmix_boxes(len(strong), strong.shape[-1])
        strong = torch.where(boxes[:, None], strong.roll(-1, 0), strong)
        pseudo = torch.where(boxes, pseudo.roll(-1, 0), pseudo)
        kept = torch.where(boxes, kept.roll(-1, 0), kept)
        supervised = F.cross_entropy(self.net(image), label, ignore_index=255)
        target = pseudo.masked_fill(~kept, 255)
        if kept.any():
            self_training = F.cross_entropy(self.net(strong), target, ignore_index=255)
        else:
            self_training = self.net(strong).sum() * 0
        loss = supervised + self_training
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 10.0)
        self.optimizer.step()
        for average, parameter in zip(self.average.parameters(), self.net.parameters(), strict=True):
            average.data.mul_(0.999).add_(parameter.data, alpha=0.001)
        for average, buffer in zip(self.average.buffers(), self.net.buffers(), strict=True):
            average.data.copy_(buffer.data)
        self.history.append((supervised.item(), self_training.item(), kept.float().mean().item()))
