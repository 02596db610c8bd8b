"""Recipes out of a policy bundle: what a governed device may rank by is what is declared."""

from __future__ import annotations

from collections.abc import Iterable

from client.intelligence.context import FEATURES
from client.intelligence.recipe import CONTEXT_WEIGHT, HIDDEN, Recipe, Term, at_context
from crypto.policy import Bundle
from crypto.policy.fields import MICRO
from crypto.policy.signals import ANY, Signal
from crypto.policy.values import Delta, Members, Number, Whole


def recipe_of(bundle: Bundle, collection: str) -> Recipe | None:
    """For ranking a collection's items: its declared signals, those of its contexts, and its
    `.hidden` set. None: the policy declares nothing to rank by."""
    terms = [*_terms(bundle, collection)]
    for feature in FEATURES:
        terms += _terms(bundle, at_context(collection, feature), feature)
    return Recipe(tuple(terms), hidden=collection + HIDDEN) if terms else None


def recipe_for(bundle: Bundle, names: Iterable[str]) -> Recipe | None:
    """Of the signals of these names, as a task lists them; None: none of them is of items."""
    found = [signal for name in names if (signal := bundle.signal(name)) is not None]
    terms = [term for signal in found if (term := term_of(signal)) is not None]
    return Recipe(tuple(terms)) if terms else None


def _terms(bundle: Bundle, collection: str, feature: str | None = None) -> list[Term]:
    found = (term_of(one, feature) for one in bundle.signals if one.collection == collection)
    return list(dict.fromkeys(term for term in found if term is not None))


def term_of(signal: Signal, feature: str | None = None) -> Term | None:
    """How a signal speaks for items, in the middle of its declared range for neither side. None
    if its keys are no items: there is but one, or its values are no numbers."""
    if signal.keys != (ANY,) and len(signal.keys) < 2:
        return None
    weight = 1.0 if feature is None else CONTEXT_WEIGHT
    match signal.values:
        case Whole(low=low, high=high):
            return _setting(signal, float(low), float(high), weight, feature)
        case Number(low_micro=low, high_micro=high):
            return _setting(signal, low / MICRO, high / MICRO, weight, feature)
        case Delta():
            return Term("score", signal.collection, weight, when=feature)
        case Members():
            return Term("set", signal.collection, weight, when=feature)
        case _:
            return None


def _setting(
    signal: Signal, low: float, high: float, weight: float, feature: str | None
) -> Term | None:
    if low == high:
        return None
    reach = (high - low) / 2
    return Term("setting", signal.collection, weight, low + reach, reach, feature)
