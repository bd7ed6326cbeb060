"""What a data check found, in plain values that a command prints or dumps as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from trainable.data.items import Manifest
from trainable.data.names import capped
from trainable.data.splits import SPLITS, Split
from trainable.errors import DataError, Fault


@dataclass(frozen=True)
class SplitCounts:
    """What one split holds.

    Attributes:
        images: how many.
        photos: how many photos they come from.
        pixels: pixels of all images.
        class_pixels: labeled pixels by class name; empty for unlabeled.
        class_images: images with at least one pixel of the class, by class name.
        ignored: pixels without a label, of images that have labels.
    """

    images: int
    photos: int
    pixels: int
    class_pixels: dict[str, int] = field(default_factory=dict)
    class_images: dict[str, int] = field(default_factory=dict)
    ignored: int = 0

    def share(self, class_name: str) -> float:
        """The class's share of the labeled pixels, in [0, 1]; 0 where there are none."""
        total = sum(self.class_pixels.values())
        return self.class_pixels.get(class_name, 0) / total if total else 0.0


@dataclass
class CheckReport:
    """The result of a data check.

    Attributes:
        root: the data set's folder.
        layout: folders, voc, points or volume.
        mask_kind: how labels are read.
        data_hash: of the manifest.
        class_names: in the order of the class ids.
        splits: counts by split.
        faults: what must be mended before training.
        warnings: what should be known.
        left_out: how many images stand in no split, by reason.
        leak_allowed: whether leaks were found and allowed.
    """

    root: str
    layout: str = ""
    mask_kind: str = ""
    data_hash: str = ""
    class_names: tuple[str, ...] = ()
    splits: dict[Split, SplitCounts] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[Fault] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    leak_allowed: bool = False

    @property
    def ok(self) -> bool:
        """Whether training may start."""
        return not self.faults

    def raise_faults(self) -> None:
        """Raise what was found.

        Raises:
            DataError: the faults, capped with the number of the rest.
        """
        if self.faults:
            raise DataError(capped(self.faults))

    def class_rows(self) -> list[dict[str, Any]]:
        """One row per class: its id, name, and for each labeled split its share of pixels and number of images."""
        rows = []
        for class_id, name in enumerate(self.class_names):
            row: dict[str, Any] = {"id": class_id, "class": name}
            for split, counts in self.splits.items():
                if counts.class_pixels:
                    row[f"{split}_share"] = counts.share(name)
                    row[f"{split}_images"] = counts.class_images[name]
            rows.append(row)
        return rows

    def split_rows(self) -> list[dict[str, Any]]:
        """One row per split: images, photos, megapixels, share of ignored pixels."""
        return [
            {
                "split": split,
                "images": counts.images,
                "photos": counts.photos,
                "megapixels": round(counts.pixels / 1e6, 3),
                "ignored_share": counts.ignored / counts.pixels if counts.pixels else 0.0,
            }
            for split, counts in self.splits.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "ok": self.ok,
            "root": self.root,
            "layout": self.layout,
            "mask_kind": self.mask_kind,
            "data_hash": self.data_hash,
            "splits": self.split_rows(),
            "classes": self.class_rows(),
            "left_out": dict(self.left_out),
            "leak_allowed": self.leak_allowed,
            "faults": [{"where": fault.where, "message": fault.message} for fault in self.faults],
            "warnings": [{"where": fault.where, "message": fault.message} for fault in self.warnings],
        }


def count_splits(manifest: Manifest) -> dict[Split, SplitCounts]:
    """Images, photos and pixels of every split, and pixels of every class where there are labels."""
    found: dict[Split, SplitCounts] = {}
    for split in SPLITS:
        items = [manifest.items[index] for index in manifest.indices(split)]
        labels = [item.class_pixels for item in items if item.class_pixels]
        class_pixels, class_images = {}, {}
        for class_id, name in enumerate(manifest.class_names if labels else ()):
            class_pixels[name] = sum(counts[class_id] for counts in labels)
            class_images[name] = sum(counts[class_id] > 0 for counts in labels)
        found[split] = SplitCounts(
            images=len(items),
            photos=len({item.group for item in items}),
            pixels=sum(item.height * item.width for item in items),
            class_pixels=class_pixels,
            class_images=class_images,
            ignored=sum(counts[-1] for counts in labels),
        )
    return found
