"""Whether a wandb key is at hand, and what follows from it; wandb itself is not loaded for that."""

from __future__ import annotations

import contextlib
import netrc
import os
from typing import Literal

from search.schema import WandbConfig

Mode = Literal["online", "offline", "disabled"]
KEY_LENGTH = 40


def has_key() -> bool:
    """Whether a wandb key is at hand, in the environment or in netrc; its value is not looked at."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0].split(":")[0]
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    return False


def key_note(config: WandbConfig) -> str | None:
    """What is wrong with the key of a sweep that asks to be drawn online, before it starts; None where nothing is."""
    if mode_of(config) != "online":
        return None
    kept = "the run is kept offline, and `thresher wandb-sync` sends it later"
    if not has_key():
        return f"wandb: mode online needs a key in WANDB_API_KEY or netrc (`wandb login`), but there is none; {kept}"
    key = os.environ.get("WANDB_API_KEY")
    if key is not None and len(key.strip()) < KEY_LENGTH:
        return f"wandb: the key in WANDB_API_KEY must have at least {KEY_LENGTH} characters, but has fewer; {kept}"
    return None


def mode_of(config: WandbConfig) -> Mode:
    """`auto` is what wandb's own WANDB_MODE says, else online with a key, else offline."""
    if config.mode != "auto":
        return config.mode
    wanted = os.environ.get("WANDB_MODE")
    if wanted in ("offline", "disabled"):
        return "offline" if wanted == "offline" else "disabled"
    return "online" if has_key() else "offline"
