"""What there is: recipes, spaces, knobs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from search.cli.output import Json, print_json, print_rows, say
from spaces import NAMED
from trainable.knob import Knob, knobs_of
from trainable.recipes import RECIPES, get_recipe

_KNOB_COLUMNS = ("knob", "default", "legal", "search", "scale", "unit", "from", "about")
_NAME = Annotated[str | None, typer.Argument(help="A recipe; see `thresher recipes`.")]


def recipes(
    name: _NAME = None,
    knobs: Annotated[bool, typer.Option("--knobs", help="Show the recipe's knobs.")] = False,
    as_json: Json = False,
) -> None:
    """List the training systems, or say all of one."""
    if knobs:
        _print_knobs(name or "per_class", as_json=as_json)
        return
    if name is None:
        shown = ("recipe", "about", "presets", "source")
        print_rows([recipe_row(n) for n in RECIPES], shown, as_json=as_json, narrow=shown[:2])
        if not as_json:
            say("presets, slots and source of one: thresher recipes NAME")
        return
    row = recipe_row(name)
    if as_json:
        print_json(row)
        return
    kind = get_recipe(name)
    say(f"{kind.name}: {kind.about}", f"source: {kind.source}", f"objective: {kind.objective} ({kind.direction})")
    say(*(f"  {slot}: {what}" for slot, what in kind.slots.items()))
    say(*(f"preset {preset}: {found.about}" for preset, found in kind.presets.items()))
    say(f"knobs: thresher recipes {name} --knobs")


def recipe_row(name: str) -> dict[str, Any]:
    """One recipe, as a row."""
    kind = get_recipe(name)
    return {
        "recipe": kind.name, "about": kind.about, "source": kind.source, "presets": list(kind.presets),
        "slots": dict(kind.slots), "objective": kind.objective, "direction": kind.direction,
        "needs_unlabeled": kind.needs_unlabeled,
    }  # fmt: skip


def knobs(name: _NAME = None, as_json: Json = False) -> None:
    """List every hyperparameter of a recipe (per_class where none is named)."""
    _print_knobs(name or "per_class", as_json=as_json)


def _print_knobs(name: str, *, as_json: bool) -> None:
    rows = [knob_row(knob) for knob in knobs_of(get_recipe(name).config).values()]
    print_rows(rows, _KNOB_COLUMNS, as_json=as_json, narrow=("knob", "default", "search", "about"))


def knob_row(knob: Knob) -> dict[str, Any]:
    """One knob, as a row."""
    notes = [knob.help]
    if not knob.searchable:
        notes.append(f"Not searched: {knob.why_not}.")
    if knob.caution:
        notes.append(f"Caution: {knob.caution}.")
    return {
        "knob": knob.name, "kind": knob.kind, "default": knob.default, "legal": knob.choices or knob.legal,
        "search": knob.search, "scale": knob.scale if knob.search else None, "unit": knob.unit or None,
        "from": knob.acts_from, "in_steps": knob.in_steps, "searchable": knob.searchable, "about": " ".join(notes),
    }  # fmt: skip


def spaces(recipe: _NAME = None, as_json: Json = False) -> None:
    """List the named search spaces, of one recipe or of all."""
    kind = None if recipe is None else get_recipe(recipe).name
    found = [space for name, space in sorted(NAMED.items()) if kind in (None, name.split("/")[0])]
    rows = [{"space": s.name, "about": s.about, "searches": list(s.spec), "spec": dict(s.spec)} for s in found]
    print_rows(rows, ("space", "about", "searches"), as_json=as_json)
