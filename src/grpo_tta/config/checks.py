"""Checks that settings share. Each raises a `UserError` that names the setting and the values that are possible."""

from __future__ import annotations

import math

from grpo_tta.errors import UserError


def check_selected(selected: int, views: int) -> None:
    """
    Raises:
        UserError: `selected` is not between 1 and `views`.
    """
    if not 1 <= selected <= views:
        raise UserError(f"{selected} of {views} views cannot be selected; use 1 to {views}.")


def check_at_least(name: str, value: float, lowest: float) -> None:
    """
    Raises:
        UserError: the value is below `lowest`, or not finite.
    """
    if not lowest <= value < math.inf:
        raise UserError(f"{name} must be at least {lowest}, not {value}.")


def check_positive(name: str, value: float) -> None:
    """
    Raises:
        UserError: the value is zero or below, or not finite.
    """
    if not 0 < value < math.inf:
        raise UserError(f"{name} must be positive, not {value}.")


def check_share(name: str, value: float, *, open_below: bool = False) -> None:
    """
    Raises:
        UserError: the value is not in [0, 1], or is 0 where `open_below`.
    """
    if not 0 <= value <= 1 or (open_below and value == 0):
        raise UserError(f"{name} is a share {'above 0 and at most' if open_below else 'between 0 and'} 1, not {value}.")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """
    Raises:
        UserError: the value is none of those known.
    """
    if value not in known:
        raise UserError(f"Unknown {name} {value!r}; choose {' or '.join(known)}.")
