"""CPU-seconds per iteration of the loop, beside a textbook loop: same model, same data, each in its own process.

    python -m tests.bench.loop_ratio [--steps 6] [--crop 128] [--batch 8] [--encoder resnet50]

Both sides train DeepLabV3+ with cross-entropy on labeled and selected pixels; CPU time counts every thread and child.
Rounds alternate, one process standing still, and the ratio is that of the medians. The textbook's process allocates
memory as a plain script does; `--huge-pages` gives it the huge pages that thresher asks for.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from tests.bench.textbook import Pairs, Textbook
from trainable.config import RunConfig
from trainable.data.synth import write_scenes
from trainable.models import segmenter
from trainable.session import Session, open_session

THRESHOLD = 0.3
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def cpu_seconds() -> float:
    """CPU time of this process and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def our_session(root: Path, encoder: str, crop: int, batch: int, steps: int, directory: Path) -> Session:
    """The loop's side, past the start of self-training."""
    train = {
        "steps": steps, "eval_every_steps": steps, "batch_size": batch, "crop_size": crop, "patience": 0,
        "architecture": "deeplabv3plus", "encoder": encoder, "encoder_weights": None, "num_heads": 1,
        "head_dropout": 0.0,
        "optimizer": {"lr": 0.01, "warmup_steps": 0, "head_lr_mult": 1.0}, "grad_clip": 10.0, "scale_every_steps": 0,
        "loss": {"ce": 1.0, "dice": 0.0, "focal": 0.0, "class_weights": "none"}, "st": {"start_step": 0},
        "threshold": THRESHOLD, "teacher": "student", "ema_decay": 0.999,
    }  # fmt: skip
    data = {
        "root": str(root), "labeled": "splits/labelled.txt", "unlabeled": "splits/unlabelled.txt",
        "val": "splits/val.txt",
        "classes": "class_mapping.csv", "group_by": r"^(p\d+)",
    }  # fmt: skip
    run = RunConfig.model_validate({"name": "bench", "recipe": "per_class", "data": data, "train": train})
    return open_session(run, directory, Path("."), torch.device("cpu"))


def our_round(session: Session, steps: int) -> float:
    """CPU-seconds per iteration."""
    begun = cpu_seconds()
    for _ in range(steps):
        session.enter_phase()
        session.train_step()
        session.between_steps()
    return (cpu_seconds() - begun) / steps


@dataclass(frozen=True)
class Size:
    """What both sides train.

    Attributes:
        root: the scenes. encoder: of DeepLabV3+. crop: side in pixels. batch: labeled images per step, and unlabeled
        ones. steps: per round. rounds: how many.
    """

    root: Path
    encoder: str
    crop: int
    batch: int
    steps: int
    rounds: int


def textbook_round(make: Callable[[], Textbook], steps: int) -> float:
    """CPU-seconds per iteration; the worker process is counted when it has ended."""
    book = make()
    book.step()
    begun = cpu_seconds()
    for _ in range(steps):
        book.step()
    del book
    time.sleep(0.5)
    return (cpu_seconds() - begun) / steps


def textbook(size: Size, classes: int, asked: Connection) -> None:
    """A process that measures a round whenever it is asked."""
    torch.set_num_threads(1)
    random.seed(0)

    def book() -> Textbook:
        torch.manual_seed(0)
        loaders = []
        for name in ("labelled", "unlabelled"):
            ids = (size.root / "splits" / f"{name}.txt").read_text().split()
            images = [next((size.root / "images").glob(f"{i}.*")) for i in ids]
            masks = [size.root / "masks" / f"{i}.png" for i in ids]
            pairs = Pairs(images, list(masks), size.crop, size.batch * (size.steps + 1))
            # a spawned worker would import torch anew, and be counted for it
            loaders.append(
                DataLoader(pairs, batch_size=size.batch, num_workers=1, multiprocessing_context="fork")
            )
        net = segmenter("deeplabv3plus", size.encoder, None, classes)
        return Textbook(net, loaders[0], loaders[1], [THRESHOLD] * classes)

    for _ in range(size.rounds):
        asked.recv()
        asked.send(textbook_round(book, size.steps))


def measure(size: Size, directory: Path, *, huge_pages: bool) -> tuple[list[float], list[float]]:
    """CPU-seconds per iteration of every round: the textbook's, and the loop's."""
    total = size.steps * size.rounds + 2
    session = our_session(size.root, size.encoder, size.crop, size.batch, total, directory)
    our_round(session, 2)
    ours, theirs = [], []
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    before = os.environ[HUGE_PAGES]
    os.environ[HUGE_PAGES] = "1" if huge_pages else "0"
    process = context.Process(target=textbook, args=(size, session.recipe.task.num_classes, there))
    process.start()
    os.environ[HUGE_PAGES] = before
    for _ in range(size.rounds):
        here.send("round")
        theirs.append(here.recv())
        ours.append(our_round(session, size.steps))
    process.join()
    session.close()
    return theirs, ours


def main() -> None:
    """Print the ratio, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--huge-pages", action="store_true", help="for the textbook's process, too")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "scenes"
        write_scenes(root, photos=6, patches_per_photo=4, size=256, labeled=8, seed=0)
        size = Size(root, args.encoder, args.crop, args.batch, args.steps, args.rounds)
        theirs, ours = measure(size, Path(scratch) / "run", huge_pages=args.huge_pages)
    result = {
        "textbook_cpu_s": statistics.median(theirs), "thresher_cpu_s": statistics.median(ours),
        "ratio": statistics.median(theirs) / statistics.median(ours), "encoder": args.encoder, "crop": args.crop,
        "batch": args.batch, "rounds": args.rounds, "steps": args.steps, "huge_pages": args.huge_pages,
    }  # fmt: skip
    print(
        f"textbook {result['textbook_cpu_s']:.3f} CPU-s/iteration, thresher {result['thresher_cpu_s']:.3f}, "
        f"ratio {result['ratio']:.2f}"
    )
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
