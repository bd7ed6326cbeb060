"""The parts of a space: every coordinate gives legal values, and every such value is found again."""

from __future__ import annotations

import json
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spaces.derive import Axis, same
from spaces.entries import Entry, Fixed, OrderedPair, Shared, Simplex
from spaces.thresholds import BaseSlope, standardized_log

FREQ = {"field": 0.6, "road": 0.01, "roof": 0.09, "tree": 0.3}
ENTRIES: dict[str, Entry] = {
    "number": Shared(("st.weight",), Axis("st.weight", "float", 0.1, 4.0, log=True)),
    "log1m": Shared(("ema_decay",), Axis("1-ema_decay", "float", 1e-4, 0.1, log=True), "log1m"),
    "group": Shared(("threshold.a", "threshold.b"), Axis("threshold.g", "float", 0.2, 0.99)),
    "choice": Shared(("flip",), Axis("flip", "choice", choices=(False, True))),
    "pair": OrderedPair("zoom_min", "zoom_max", Axis("zoom_min", "float", 0.4, 1.5), 1.0, 2.0),
    "whole pair": OrderedPair("scale_min", "scale_max", Axis("scale_min", "int", 192, 320), 256, 320),
    "two": Simplex(("l.a", "l.b")),
    "three": Simplex(("l.a", "l.b", "l.c")),
    "five": Simplex(("l.a", "l.b", "l.c", "l.d", "l.e")),
    "base_slope": BaseSlope("threshold", standardized_log(FREQ), 0.2, 0.99, -1.0, 1.0),
    "fixed": Fixed("batch_size", 8),
}


@pytest.mark.parametrize("name", ENTRIES)
@given(data=st.data())
def test_there_and_back(name: str, data: st.DataObject) -> None:
    entry = ENTRIES[name]
    share = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))
    coords = {axis.name: axis.at(data.draw(share)) for axis in entry.axes}
    natural = entry.natural(coords)
    assert tuple(natural) == entry.names
    found = entry.coords(natural)
    assert found is not None, natural
    assert set(found) == set(coords)
    again = entry.natural(found)
    assert all(same(again[key], natural[key]) for key in natural)
    for axis in entry.axes:
        axis.snapped(found[axis.name])


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_plain_json(name: str) -> None:
    entry = ENTRIES[name]
    assert type(entry).from_json(json.loads(json.dumps(entry.to_json()))) == entry


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_pair_is_always_in_order_and_in_its_ranges(low: float, gap: float) -> None:
    for name in ("pair", "whole pair"):
        pair = ENTRIES[name]
        assert isinstance(pair, OrderedPair)
        first, second = pair.axes
        smaller, larger = pair.natural({first.name: first.at(low), second.name: gap}).values()
        assert smaller <= larger
        assert first.low <= smaller <= first.high
        assert pair.bottom <= larger <= pair.top


def test_a_pair_reaches_every_whole_number() -> None:
    pair = OrderedPair("a", "b", Axis("a", "int", 1, 3), 2, 5)
    shares = [i / 500 for i in range(501)]
    reached = {tuple(pair.natural({"a": a, "b.gap": g}).values()) for a in (1, 2, 3) for g in shares}
    assert reached == {(a, b) for a in (1, 2, 3) for b in range(max(a, 2), 6)}


@pytest.mark.parametrize("values", [(1.5, 1.2), (0.3, 1.5), (0.5, 2.1), (0.5, 0.9)])
def test_a_pair_knows_what_it_cannot_give(values: tuple[float, float]) -> None:
    assert ENTRIES["pair"].coords(dict(zip(("zoom_min", "zoom_max"), values, strict=True))) is None


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_a_simplex_sums_to_one(shares: list[float]) -> None:
    weights = ENTRIES["five"].natural(
        dict(zip(("l.a.share", "l.b.share", "l.c.share", "l.d.share"), shares, strict=True))
    )
    assert min(weights.values()) >= 0
    assert math.isclose(math.fsum(weights.values()), 1.0, rel_tol=1e-12)


def test_a_simplex_is_uniform() -> None:
    draw = random.Random(5)
    drawn = [
        ENTRIES["three"].natural({"l.a.share": draw.random(), "l.b.share": draw.random()})
        for _ in range(20_000)
    ]
    for weight in ("l.a", "l.b", "l.c"):
        values = [one[weight] for one in drawn]
        # Each weight of a uniform simplex of three is Beta(1, 2): mean 1/3, standard deviation sqrt(1/18).
        assert statistics.fmean(values) == pytest.approx(1 / 3, abs=0.01)
        assert statistics.pstdev(values) == pytest.approx(math.sqrt(1 / 18), abs=0.01)


@pytest.mark.parametrize(
    ("weights", "known"),
    [
        ((0.4, 0.4, 0.2), True),
        ((1.0, 0.0, 0.0), True),
        ((0.0, 0.0, 1.0), True),
        ((0.4, 0.4, 0.3), False),
        ((1.2, -0.1, -0.1), False),
    ],
)
def test_a_simplex_knows_weights_that_sum_to_one(weights: tuple[float, ...], known: bool) -> None:
    natural = dict(zip(("l.a", "l.b", "l.c"), weights, strict=True))
    found = ENTRIES["three"].coords(natural)
    assert (found is not None) == known
    if found is not None:
        assert all(same(v, natural[k]) for k, v in ENTRIES["three"].natural(found).items())


@given(st.floats(0.2, 0.99), st.floats(-1, 1))
def test_base_and_slope_follow_the_formula(base: float, slope: float) -> None:
    entry = ENTRIES["base_slope"]
    natural = entry.natural({"threshold.base": base, "threshold.slope": slope})
    logs = {c: math.log(f) for c, f in FREQ.items()}
    mean, deviation = statistics.fmean(logs.values()), statistics.pstdev(logs.values())
    for c in FREQ:
        logit = math.log(base / (1 - base)) + slope * (logs[c] - mean) / deviation
        assert natural[f"threshold.{c}"] == pytest.approx(1 / (1 + math.exp(-logit)), rel=1e-9)


def test_equal_thresholds_are_a_slope_of_zero_and_uneven_ones_are_not_represented() -> None:
    entry = ENTRIES["base_slope"]
    found = entry.coords({f"threshold.{c}": 0.6 for c in FREQ})
    assert found is not None
    assert found["threshold.base"] == pytest.approx(0.6)
    assert found["threshold.slope"] == pytest.approx(0.0, abs=1e-12)
    uneven = {f"threshold.{c}": t for c, t in zip(FREQ, (0.6, 0.5, 0.7, 0.6), strict=True)}
    assert entry.coords(uneven) is None
    assert entry.coords({f"threshold.{c}": 0.0 for c in FREQ}) is None
    assert entry.coords({f"threshold.{c}": 0.1 for c in FREQ}) is None


def test_a_class_alone_in_the_search_still_has_its_place_on_the_slope() -> None:
    entry = BaseSlope("threshold", {"road": -1.7}, 0.2, 0.99, -1.0, 1.0)
    found = entry.coords({"threshold.road": 0.7})
    assert found is not None
    assert entry.natural(found)["threshold.road"] == pytest.approx(0.7)


@pytest.mark.parametrize("shares", [{}, {"a": 0.5, "b": 0.5}, {"a": 0.0, "b": 0.0}, {"a": 1.0}])
def test_frequencies_without_a_spread_give_no_slope(shares: dict[str, float]) -> None:
    assert standardized_log(shares) == dict.fromkeys(shares, 0.0)


def test_a_class_without_pixels_is_the_rarest() -> None:
    z = standardized_log({"a": 0.9, "b": 0.1, "none": 0.0})
    assert z["none"] < z["b"] < z["a"]
    assert statistics.fmean(z.values()) == pytest.approx(0, abs=1e-12)
    assert statistics.pstdev(z.values()) == pytest.approx(1)
