"""Threshold modes: rules for which pixels to keep, some of which learn from the predictions they see.

Every mode has the same two functions, so that any recipe on pixels can use any of them:

    state = MODES[name].init(num_classes, device)
    target = MODES[name].select(state, probabilities, valid, numbers, sum_over_workers)
 The state is a dictionary of tensors that stays on the device, is changed in place, and belongs into the
checkpoint. `numbers` holds what a search may vary; each mode reads its own part of it. The statistics a mode
learns from pass through `sum_over_workers` first, so that all workers hold one state. A step without a valid
pixel leaves the state as it was. Everywhere a pixel is kept when its confidence is above the threshold,
strictly.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainable.metrics import count_bins, count_classes
from trainable.pseudo_labels.mode import Mode, Number, Numbers, State, SumOverWorkers, follow
from trainable.pseudo_labels.select import confidence, per_class, pixel_entropy, select_per_class
from trainable.pseudo_labels.softmatch import (
    init_softmatch,
    init_softmatch_per_class,
    select_softmatch,
    select_softmatch_per_class,
)
from trainable.pseudo_labels.target import Target, make_target

# Confidences crowd towards 1: bins of equal width in -log2(1 - p) tell 0.999 from 0.9999.
_BINS = 2048
_OCTAVES = 24.0



def _no_state(num_classes: int, device: torch.device | str) -> State:
    return {}


def _select_given(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """p > t of the predicted class, with the thresholds as they are handed in."""
    return select_per_class(probabilities, numbers.threshold, valid)


def _init_freematch(num_classes: int, device: torch.device | str) -> State:
    uniform = torch.full((num_classes,), 1.0 / num_classes, device=device)
    return {
        "tau": torch.full((), 1.0 / num_classes, device=device),
        "probability": uniform.clone(),
        "histogram": uniform.clone(),
    }


def _select_freematch(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """tau = EMA of the mean confidence, tau_c = min(tau, cap) p_c / max p, p = EMA of the mean prediction.

    With `quantile` above 0, tau follows that quantile of the confidences instead of their mean; of several workers
    each contributes its own. `histogram`, the EMA of each class's share among the predictions, is what the fairness
    loss needs.

    Source: FreeMatch (arXiv 2205.07246), over pixels. As in its code the stored tau is capped, too, by the
        largest of the classes' caps.
    """
    value, label = confidence(probabilities)
    num_classes = probabilities.shape[1]
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    weight = valid.float()
    over = [0, *range(2, probabilities.ndim)]
    per_channel = (probabilities.detach().float() * weight.unsqueeze(1)).sum(over)
    counts = count_classes(label, valid, num_classes).float()
    sums = total(torch.cat((weight.sum()[None], (value * weight).sum()[None], per_channel, counts)))
    mean = sums[1:] / sums[0].clamp_min(1.0)
    cap = per_class(numbers.threshold, num_classes, value)
    level = _level(value, valid, mean[0], numbers.quantile, total)
    follow(state["tau"], level, numbers.momentum, sums[0] > 0)
    state["tau"].copy_(torch.where(sums[0] > 0, torch.minimum(state["tau"], cap.max()), state["tau"]))
    follow(state["probability"], mean[1 : 1 + num_classes], numbers.momentum, sums[0] > 0)
    follow(state["histogram"], mean[1 + num_classes :], numbers.momentum, sums[0] > 0)
    relative = state["probability"] / state["probability"].max().clamp_min(1e-12)
    return select_per_class(probabilities, torch.minimum(state["tau"], cap) * relative, valid)


def _level(value: Tensor, valid: Tensor, mean: Tensor, quantile: Number, total: SumOverWorkers) -> Tensor:
    """The mean that is given, or where it is above 0 the quantile, as a mean over the workers that see a pixel."""
    if not isinstance(quantile, Tensor) and quantile == 0:
        return mean
    found = _shared_quantile(value, valid, quantile, total)
    return torch.where(found.new_zeros(()) + quantile > 0, found, mean)


def _shared_quantile(value: Tensor, valid: Tensor, share: Number, total: SumOverWorkers) -> Tensor:
    """The quantile, as a mean over the workers that see a pixel; 0 where none does."""
    sums = total(torch.stack((_masked_quantile(value, valid, share), valid.any().float())))
    return sums[0] / sums[1].clamp_min(1.0)


def _init_flexmatch(num_classes: int, device: torch.device | str) -> State:
    # The last entry is the share of pixels that no class has learned yet: all of them.
    share = torch.zeros(num_classes + 1, device=device)
    share[num_classes:] = 1.0
    return {"share": share}


def _select_flexmatch(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """tau_c = tau s_c / (2 - s_c), s_c = pixels learned as c over the largest count, the unlearned included.

    A pixel is learned when its confidence passes tau itself. The thresholds come from the state before this
    step. A class without a learned pixel has threshold 0, so everything passes at the start.

    Source: FlexMatch (arXiv 2110.08263). Differs in that an EMA of shares takes the place of a memory of
        every sample, which pixels are too many for.
    """
    value, label = confidence(probabilities)
    num_classes = probabilities.shape[1]
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    limits = per_class(numbers.threshold, num_classes, value)
    learned = state["share"][:num_classes] / state["share"].max().clamp_min(1e-12)
    target = select_per_class(probabilities, limits * learned / (2.0 - learned), valid)
    above = count_classes(label, valid & (value > limits[label]), num_classes).float()
    sums = total(torch.cat((above, valid.sum().float()[None])))
    below = sums[num_classes:] - sums[:num_classes].sum()
    share = torch.cat((sums[:num_classes], below)) / sums[num_classes].clamp_min(1.0)
    follow(state["share"], share, numbers.momentum, sums[num_classes] > 0)
    return target


def _init_class_ratio(num_classes: int, device: torch.device | str) -> State:
    return {"histogram": torch.zeros(num_classes, _BINS, device=device)}


def _select_class_ratio(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """tau_c = the confidence that the share r of the predictions of class c reach, from an EMA of histograms.

    At least the share is kept; by how much more depends on the bin. Momentum 0 takes each batch for itself.

    Source: DST-CBC (arXiv 2004.08514), which ranks the whole unlabeled set once per round.
    """
    value, label = confidence(probabilities)
    num_classes = probabilities.shape[1]
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    position = _bin_of(value)
    cell = torch.where(valid, label * _BINS + position, torch.full_like(label, num_classes * _BINS))
    counts = count_bins(cell, num_classes * _BINS + 1)[:-1].view(num_classes, _BINS)
    sums = total(counts.float())
    follow(state["histogram"], sums, numbers.momentum, sums.sum() > 0)
    # Entry b: the weight of the class at bin b and above. It falls with b; the last b that still reaches the
    # share is the cut. float64, because 1 - 0.999 of a count is soon under float32's last place.
    reaching = state["histogram"].double().flip(1).cumsum(1).flip(1)
    enough = (reaching >= numbers.keep_ratio * reaching[:, :1]) & (reaching > 0)
    cut = enough.sum(1) - 1
    selected = position >= cut[label]
    limits = 1.0 - torch.exp2(-cut.clamp_min(0).double() * (_OCTAVES / _BINS))
    return make_target(label, selected, valid, num_classes, thresholds=limits)


def _init_corr_global(num_classes: int, device: torch.device | str) -> State:
    return {"tau": torch.full((), 0.85, device=device)}


def _select_corr_global(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """tau = EMA, from 0.85, of the mean over the predicted classes of each class's largest confidence.

    Of several workers each contributes its own mean.

    Source: CorrMatch (arXiv 2306.04300).
    """
    value, label = confidence(probabilities)
    num_classes = probabilities.shape[1]
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    largest = torch.stack([(value * (valid & (label == c))).max() for c in range(num_classes)])
    present = (largest > 0).float()
    has_any = (present.sum() > 0).float()
    sums = total(torch.stack((largest.sum() / present.sum().clamp_min(1.0), has_any)))
    follow(state["tau"], sums[0] / sums[1].clamp_min(1.0), numbers.momentum, sums[1] > 0)
    return select_per_class(probabilities, state["tau"], valid)


def _select_entropy_pct(
    state: State, probabilities: Tensor, valid: Tensor | None, numbers: Numbers, total: SumOverWorkers
) -> Target:
    """Keep pixels of an entropy at most the batch's (1 - drop_share) quantile, with weight N / N_kept.

    With the weight, a loss that is averaged over all N pixels equals the mean over the kept ones. Several workers
    share one limit, the mean of their own quantiles, and N and N_kept are those of all of them.

    Source: U2PL (arXiv 2203.03884), which drops the pixel at the quantile too, and multiplies the mean over
        the kept pixels by the weight.
    """
    _, label = confidence(probabilities)
    valid = torch.ones_like(label, dtype=torch.bool) if valid is None else valid
    entropy = pixel_entropy(probabilities.detach())
    limit = _shared_quantile(entropy, valid, 1.0 - numbers.drop_share, total)
    selected = valid & (entropy <= limit)
    seen, kept = total(torch.stack((valid.sum(), selected.sum())).float())
    weight = seen / kept.clamp_min(1.0)
    target = make_target(label, selected, valid, probabilities.shape[1], weight=weight.expand(label.shape))
    target.stats["st/entropy_limit"] = limit
    return target


MODES: dict[str, Mode] = {
    "fixed": Mode(_no_state, _select_given, "one threshold on the confidence"),
    "per_class": Mode(_no_state, _select_given, "one threshold per class"),
    "linear_ramp": Mode(_no_state, _select_given, "a threshold that moves linearly with the step"),
    "freematch": Mode(
        _init_freematch, _select_freematch, "follows the mean confidence, lower for rare classes"
    ),
    "flexmatch": Mode(_init_flexmatch, _select_flexmatch, "lower for classes with few confident pixels"),
    "softmatch": Mode(init_softmatch, select_softmatch, "keeps all pixels, weighted by confidence"),
    "softmatch_per_class": Mode(
        init_softmatch_per_class, select_softmatch_per_class, "the same, by each class's own confidence"
    ),
    "class_ratio": Mode(_init_class_ratio, _select_class_ratio, "keeps the same share of each class"),
    "corr_global": Mode(_init_corr_global, _select_corr_global, "follows the classes' largest confidences"),
    "entropy_pct": Mode(_no_state, _select_entropy_pct, "drops the share of pixels of the largest entropy"),
}


def _bin_of(value: Tensor) -> Tensor:
    octave = -torch.log2((1.0 - value).clamp_min(2.0**-_OCTAVES))
    return (octave * (_BINS / _OCTAVES)).long().clamp(0, _BINS - 1)


def _masked_quantile(value: Tensor, mask: Tensor, share: Number) -> Tensor:
    """Quantile of the masked elements with linear interpolation; 0 where there is none."""
    last = (mask.sum() - 1).clamp_min(0)
    ordered = torch.where(mask, value, torch.full_like(value, torch.inf)).flatten().sort().values
    place = last * (torch.zeros_like(value.sum()).double() + share).clamp(0.0, 1.0)
    low = place.floor().long()
    high = torch.minimum(low + 1, last)
    low_value, high_value = ordered.gather(0, low[None])[0], ordered.gather(0, high[None])[0]
    quantile = torch.lerp(low_value, high_value, (place - low).to(value.dtype))
    return torch.where(mask.any(), quantile, torch.zeros_like(quantile))
