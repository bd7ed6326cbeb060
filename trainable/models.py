"""Networks; the only place that imports segmentation_models_pytorch."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from textwrap import shorten
from typing import Any

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.encoders import get_encoder_names
from torch import Tensor, nn

from trainable.config import names_file
from trainable.deeplab import RATES, AtrousSum, Deepest
from trainable.errors import CheckpointError, ConfigError, Fault, WeightsUnavailable
from trainable.plain_unet import PlainUnet

STRIDE = 32
DEEPLABV2 = "deeplabv2"
DPT = "dpt"
PLAIN_UNET = "plain_unet"
_WIDTH = re.compile(r"width([1-9]\d{0,3})")
DEEPLABV3PLUS = "deeplabv3plus"
ATROUS_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Of DeepLabV3+ by output stride. The rates that smp sets for either are those of stride 8: at stride 16 and 256 pixels
two of the three would look past the map and see its middle alone."""


class Segmenter(nn.Module):
    """An encoder, a decoder, and one or more heads on the decoder's features.

    Args:
        network: a network as smp builds it.
        num_heads: number of heads.
        head_dropout: dropout in front of each head; its length is `num_heads`.
    """

    def __init__(self, network: nn.Module, num_heads: int = 1, head_dropout: Sequence[float] = (0.0,)) -> None:
        super().__init__()
        self.encoder: nn.Module = network.get_submodule("encoder")
        self.decoder: nn.Module = network.get_submodule("decoder")
        first = network.get_submodule("segmentation_head")
        heads = [first] + [_fresh_copy(first) for _ in range(num_heads - 1)]
        self.heads = nn.ModuleList(heads)
        self.head_dropout = nn.ModuleList([nn.Dropout(p) for p in head_dropout])

    def encode(self, image: Tensor) -> list[Tensor]:
        """Feature maps of the encoder, from fine to coarse. image: float[B, 3, H, W], of any size.

        Sides that are no multiple of the stride are padded with zeros at the far ends, which `decode` cuts off.
        """
        pad = [-side % STRIDE for side in image.shape[2:]]
        if any(pad):
            image = F.pad(image, [0, pad[1], 0, pad[0]])
        features: list[Tensor] = self.encoder(image)
        return features

    def decode(self, features: list[Tensor], size: Sequence[int]) -> Tensor:
        """Logits of every head, float[K, B, C, *size]; size: of the image that was encoded."""
        decoded = self.decoder(features)
        padded = [side + -side % STRIDE for side in size]
        logits = torch.stack(
            [
                _resize(head(drop(decoded)), padded)
                for head, drop in zip(self.heads, self.head_dropout, strict=True)
            ]
        )
        return logits[..., : size[0], : size[1]]

    def head_logits(self, image: Tensor) -> Tensor:
        """Logits of every head, float[K, B, C, H, W]."""
        return self.decode(self.encode(image), image.shape[2:])

    def forward(self, image: Tensor) -> Tensor:
        """Mean of the heads' logits, float[B, C, H, W]."""
        if len(self.heads) == 1 or not all(isinstance(head, SegmentationHead) for head in self.heads):
            return self.head_logits(image).mean(0)
        decoded = self.decoder(self.encode(image))
        # The upsampling is linear and the same for all heads, so the mean may be taken before it.
        convolved = [
            head.get_submodule("0")(drop(decoded))
            for head, drop in zip(self.heads, self.head_dropout, strict=True)
        ]
        padded = [side + -side % STRIDE for side in image.shape[2:]]
        logits = _resize(self.heads[0].get_submodule("1")(torch.stack(convolved).mean(0)), padded)
        return logits[..., : image.shape[2], : image.shape[3]]


class _Maps(nn.Module):
    """A vision transformer's feature maps alone, without its class token."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.vit = encoder

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.vit(image)[0]
        return maps


class _FromMaps(nn.Module):
    """A decoder that wants tokens beside the maps, and is given none."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.dpt = decoder

    def forward(self, features: list[Tensor]) -> Tensor:
        decoded: Tensor = self.dpt(features, [None] * len(features))
        return decoded


def _fresh_copy(head: nn.Module) -> nn.Module:
    """A copy of a head with its own initial weights."""
    made = copy.deepcopy(head)
    for module in made.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return made


def _resize(logits: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(logits.shape[2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=list(size), mode="bilinear", align_corners=False)


def segmenter(
    architecture: str,
    encoder: str,
    encoder_weights: str | None,
    num_logits: int,
    *,
    num_heads: int = 1,
    head_dropout: float = 0.0,
    head_dropout_step: float = 0.0,
    output_stride: int = 16,
    atrous_branches: int = len(RATES),
    init_from: str | None = None,
) -> Segmenter:
    """Build a 2D segmentation network.

    Args:
        architecture: any of smp's, for example `deeplabv3plus`, `unet`, `segformer`; or `deeplabv2`, `plain_unet`.
        encoder: any of smp's encoders, for example `resnet50`; `width64` and the like for `plain_unet`.
        encoder_weights: `imagenet`, None for random weights, or a file of encoder weights.
        num_logits: channels of the output.
        num_heads: heads on the decoder; their logits are averaged.
        head_dropout: dropout of the first head.
        head_dropout_step: how much more dropout each further head has.
        output_stride: pixels per feature of DeepLabV3+'s encoder, 16 or 8; no other architecture has the choice.
        atrous_branches: how many of DeepLabV2's branches are there, from the smallest rate on.
        init_from: a file of weights for the whole network.

    Raises:
        ConfigError: an unknown architecture or encoder.
        WeightsUnavailable: the pretrained weights cannot be had.
        CheckpointError: a weights file does not fit.
    """
    check_network(architecture, encoder)
    architecture = architecture.lower()
    network = _network(architecture, encoder, num_logits, output_stride, atrous_branches)
    if encoder_weights is not None:
        _load_encoder(network, architecture, encoder, encoder_weights)
    if architecture == DPT:
        network.encoder = _Maps(network.get_submodule("encoder"))
        network.decoder = _FromMaps(network.get_submodule("decoder"))
    dropout = [head_dropout + head_dropout_step * k for k in range(num_heads)]
    made = Segmenter(network, num_heads, dropout)
    if init_from is not None:
        load_weights(made, read_weights(init_from), init_from)
    return made


def _network(
    architecture: str, encoder: str, num_logits: int, output_stride: int, atrous_branches: int
) -> nn.Module:
    if architecture == DEEPLABV3PLUS:
        return _create(
            architecture, encoder, num_logits, encoder_output_stride=output_stride,
            decoder_atrous_rates=ATROUS_RATES[output_stride],
        )  # fmt: skip
    if architecture == DEEPLABV2:
        # Both versions of DeepLab have an encoder of output stride 8.
        made = _create("deeplabv3", encoder, num_logits, encoder_output_stride=8)
        dilated: Any = made.get_submodule("encoder")
        made.decoder = Deepest()
        rates = RATES[:atrous_branches]
        made.segmentation_head = AtrousSum(dilated.out_channels[-1], num_logits, stride=8, rates=rates)
        return made
    if architecture == PLAIN_UNET:
        width = _WIDTH.fullmatch(encoder)
        if width is None:
            message = f"'plain_unet' must go with a width, such as width64, but got {encoder=}"
            raise ConfigError([Fault("architecture", message)])
        return PlainUnet(int(width[1]), SegmentationHead(int(width[1]), num_logits, kernel_size=1))
    return _create(architecture, encoder, num_logits, **_options(architecture, encoder))


def _create(architecture: str, encoder: str, num_logits: int, **options: Any) -> nn.Module:
    try:
        made: nn.Module = smp.create_model(
            architecture, encoder, None, in_channels=3, classes=num_logits, **options
        )
    except Exception as error:  # each architecture refuses an encoder in its own way
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        message = (
            f"{architecture!r} must go with the encoder, but got encoder={encoder!r} ({reason}); dpt takes vision "
            "transformers (tu-vit_...), the others take convolutional encoders"
        )
        raise ConfigError([Fault("architecture", message)]) from error
    return made


def _options(architecture: str, encoder: str) -> dict[str, Any]:
    """What a transformer needs to take images of any size.

    Patches of 14 pixels become 16, so that they divide the stride; pretrained patch embeddings are resampled.
    """
    if architecture != DPT:
        return {}
    size = {"patch_size": 16} if "patch14" in encoder else {}
    return {"decoder_readout": "ignore", "dynamic_img_size": True, **size}


def check_network(architecture: str, encoder: str) -> None:
    """Raise ConfigError where there is no such architecture or encoder."""
    known = sorted([*smp.MODEL_ARCHITECTURES_MAPPING, DEEPLABV2, PLAIN_UNET])
    faults = []
    if architecture.lower() not in known:
        faults.append(
            Fault(
                "architecture", f"must be one of {', '.join(known)}, but got architecture={architecture!r}"
            )
        )
    if encoder not in get_encoder_names() and not encoder.startswith("tu-") and not _WIDTH.fullmatch(encoder):
        faults.append(
            Fault(
                "encoder",
                f"must be an encoder of segmentation_models_pytorch, but got encoder={encoder!r}; "
                "for example resnet50, mobilenet_v2, efficientnet-b0, or width64 for plain_unet",
            )
        )
    if faults:
        raise ConfigError(faults)


def _load_encoder(network: nn.Module, architecture: str, encoder: str, weights: str) -> None:
    part = network.get_submodule("encoder")
    if names_file(weights):
        load_weights(part, read_weights(weights), weights)
        return
    if architecture == PLAIN_UNET:
        message = f"plain_unet must start from random weights or a file, but got {weights!r}; set encoder_weights: null"
        raise WeightsUnavailable([Fault("encoder_weights", message)])
    try:
        options = _options(architecture, encoder)
        whole = smp.create_model("dpt" if options else "unet", encoder, weights, **options)
        pretrained = whole.get_submodule("encoder")
    except Exception as error:  # the hub client raises many kinds; each means that the weights cannot be had
        raise WeightsUnavailable(
            [
                Fault(
                    "encoder_weights",
                    f"the {weights!r} weights of {encoder!r} must be at hand, but they cannot be loaded or downloaded "
                    f"({type(error).__name__}: {shorten(str(error), 160, placeholder=' ...') or 'no detail'}); "
                    "set encoder_weights: null for random weights, or name a file",
                )
            ]
        ) from error
    part.load_state_dict(pretrained.state_dict())


def read_weights(path: str) -> dict[str, Tensor]:
    """Read a file of weights: safetensors, or a torch file that holds tensors only.

    Raises:
        CheckpointError: the file cannot be read as tensors.
    """
    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every reader's own error means the same here
        raise CheckpointError(
            f"{path}: must be a file of weights (safetensors, or torch with tensors only), but got "
            f"{type(error).__name__}: {shorten(str(error), 160, placeholder=' ...') or 'no detail'}"
        ) from error
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else loaded
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise CheckpointError(f"{path}: must hold a mapping from names to tensors; export the state_dict alone")
    return loaded


def load_weights(module: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load weights that must fit exactly.

    Raises:
        CheckpointError: names or shapes differ; the first ones are named.
    """
    own = module.state_dict()
    wrong = [
        f"{name} is {tuple(own[name].shape)} here and {tuple(weights[name].shape)} in the file"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    parts = wrong[:3] + [f"missing {n}" for n in missing[:3]] + [f"unexpected {n}" for n in extra[:3]]
    if parts:
        raise CheckpointError(
            f"{where}: the weights must fit the network, but {'; '.join(parts)} "
            f"({len(wrong)} of another shape, {len(missing)} missing, {len(extra)} unexpected); "
            "use the architecture, encoder and number of classes that they were made with"
        )
    module.load_state_dict(weights)
