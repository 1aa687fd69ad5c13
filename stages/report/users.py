"""What some users had, what they get, and what they would have wanted."""

from __future__ import annotations

from collections.abc import Sequence

from .items import ItemCards, strip
from .markup import Element, Node, clipped, el, named
from .parts import LeftOut, Section, count, number, paragraph
from .sample_users import BEST, TYPICAL, WORST, SampleUser

_KINDS = {
    BEST: "Served best",
    TYPICAL: "Served in part: the middle of those with a hit",
    WORST: "Served worst",
}
_MISSED = 6  # held-out items that are shown


def users_section(
    users: Sequence[SampleUser] | str, split: str | None, cards: ItemCards
) -> Section | LeftOut:
    """`users` may be why there are none."""
    if isinstance(users, str):
        return LeftOut("Lists of users", users)
    if not users:
        return LeftOut("Lists of users", "no user was asked for, or none was evaluated")
    metric = next(iter(users[0].metrics))
    body: list[Node] = [
        paragraph(
            f"Users of the {split} split by their {metric}; among equals, those who held out most. An item "
            "that the user went on to take is marked ",
            el("strong", "✓ taken", class_="hit-mark"),
            ".",
        )
    ]
    for kind, title in _KINDS.items():
        of_kind = [user for user in users if user.kind == kind]
        if of_kind:
            body += [el("h3", title), *(_user(user, cards) for user in of_kind)]
    return Section("users", "Lists of users", body)


def _user(user: SampleUser, cards: ItemCards) -> Element:
    hits = sum(hit for _, hit in user.listed)
    figures = " · ".join(f"{name} {number(value)}" for name, value in user.metrics.items())
    found = f"{hits} of {count(user.n_held_out, 'held-out item')} among the first {len(user.listed)}"
    parts: list[Node] = [
        el("h4", "User ", named(str(user.user_id), 60)),
        el("p", f"{figures} · {found}", class_="note"),
    ]
    parts += _row(f"Had{_of(len(user.had), user.n_had)}", [cards.card(item) for item in user.had], "small")
    parts += _row(
        "Gets", [_listed(place, item, hit, cards) for place, (item, hit) in enumerate(user.listed, 1)]
    )
    missed = [cards.card(item) for item in user.missed[:_MISSED]]
    parts += _row(f"Took, but not on this list{_of(len(missed), len(user.missed))}", missed, "small")
    label = f"{_KINDS[user.kind]}: user {clipped(str(user.user_id), 60)}"
    return el("article", *parts, class_="user", aria_label=label)


def _listed(place: int, item: object, hit: bool, cards: ItemCards) -> Element:
    mark = el("strong", "✓ taken", class_="hit-mark") if hit else ""
    return cards.card(item, el("span", f"#{place}", class_="place"), mark, class_="hit" if hit else "")


def _row(title: str, items: Sequence[Element], class_: str = "") -> list[Node]:
    return [el("div", el("h5", title), strip(items), class_=f"row {class_}".strip())] if items else []


def _of(shown: int, there_are: int) -> str:
    return f" ({shown} of {there_are:,})" if shown < there_are else ""
