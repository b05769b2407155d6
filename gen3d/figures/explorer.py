"""An interactive scatter of people: choose the plane and the colours, point at a dot, or move with the arrow keys.

It is inline SVG followed by its data as JSON, so that it works without a network. Without a script it shows the first plane
and the first colouring, with a label on every dot.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from gen3d.figures import style

WIDTH, HEIGHT, MARGIN = 640, 480, 18
MOST_THUMBNAILS = 400
MOST_BYTES = 3000
QUALITIES = (85, 70, 55, 40, 25, 10)
DIAMOND = "M0 -6.5L6.5 0L0 6.5L-6.5 0Z"


@dataclass(frozen=True)
class PersonDot:
    """One dot: identifier, title and facts (label, value) of its card, and a small picture, b"" for none.

    `is_new` marks a person who was placed into an existing map: drawn as a diamond.
    """

    key: str
    title: str
    facts: Sequence[tuple[str, str]]
    thumbnail: bytes = b""
    is_new: bool = False

    @property
    def label(self) -> str:
        """All of the card in one line."""
        return ", ".join([self.title, *(f"{name} {value}" for name, value in self.facts)])


@dataclass(frozen=True)
class Colouring:
    """Colours of people: a title, a colour per person, and the legend as (colour, label) or the ends of a scale."""

    title: str
    colours: Sequence[str]
    legend: Sequence[tuple[str, str]] = ()
    scale: tuple[str, str] | None = None


@dataclass(frozen=True)
class Explorer:
    """People [n], planes name -> [n, 2] (NaN: not on this plane), and colourings of the n people."""

    identifier: str
    people: Sequence[PersonDot]
    planes: Mapping[str, NDArray[np.float64]]
    colourings: Sequence[Colouring]
    description: str


def small_picture(picture: bytes) -> bytes:
    """A picture of at most 3 kB: unchanged, or as JPEG of the best quality that fits; b"" if it cannot be read."""
    if not picture:
        return b""
    try:
        with Image.open(io.BytesIO(picture)) as opened:
            opened.load()
            if len(picture) <= MOST_BYTES:
                return picture
            grey = opened.convert("L")
    except (OSError, ValueError, SyntaxError):
        return b""
    grey.thumbnail((96, 96))
    for quality in QUALITIES:
        buffer = io.BytesIO()
        grey.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= MOST_BYTES:
            return buffer.getvalue()
    return b""


def with_pictures(num: int) -> NDArray[np.bool_]:
    """Which of n people have a picture on the page: all, or 400 evenly over the table, [n]."""
    chosen = np.zeros(num, dtype=bool)
    chosen[np.unique(np.linspace(0, num - 1, min(num, MOST_THUMBNAILS)).round().astype(int))] = True
    return chosen if num else np.zeros(0, dtype=bool)


def explore(explorer: Explorer) -> Markup:
    """The scatter with its choices, its card, its legends and its data."""
    places = {name: _places(values) for name, values in explorer.planes.items()}
    first = next(iter(places))
    colours = explorer.colourings[0].colours
    marks = Markup("").join(
        _mark(index, person, places[first][index], colour)
        for index, (person, colour) in enumerate(zip(explorer.people, colours, strict=True))
    )
    legends = Markup("").join(
        Markup('<div class="explore-legend" data-colouring="{}"{}>{}</div>').format(
            index, Markup(" hidden") if index else "", legend_of(colouring)
        )
        for index, colouring in enumerate(explorer.colourings)
    )
    titles = [each.title for each in explorer.colourings]
    return Markup(
        '<div class="explore" id="{identifier}"><div class="explore-choices" hidden>{planes}{colourings}'
        '<label>Find <input type="search" class="explore-find" placeholder="subject"/></label></div>'
        '<div class="explore-body"><svg viewBox="0 0 {width} {height}" role="group" aria-label="{description}">'
        '<rect x="0.5" y="0.5" width="{inner_width}" height="{inner_height}" class="frame"/>{marks}{ring}</svg>'
        '<div class="explore-card" aria-live="polite"><p class="note">Point at a dot, tap it, or walk with the arrow keys to '
        "see who it is.</p></div></div>{legends}"
        '<script type="application/json" class="explore-data">{data}</script></div>'
    ).format(
        identifier=explorer.identifier,
        planes=_choice("Map", "explore-plane", list(places)),
        colourings=_choice("Colour", "explore-colour", titles),
        width=WIDTH,
        height=HEIGHT,
        inner_width=WIDTH - 1,
        inner_height=HEIGHT - 1,
        description=explorer.description,
        marks=marks,
        ring=Markup('<circle r="9.5" class="ring" hidden/>'),
        legends=legends,
        data=_data(explorer, places),
    )


def legend_of(colouring: Colouring) -> Markup:
    """The legend of a colouring: its colours with labels, or its scale."""
    return _scale(colouring.scale) if colouring.scale else _legend(colouring.legend)


def _legend(entries: Sequence[tuple[str, str]]) -> Markup:
    items = [
        Markup('<li><span style="background:{0}"></span>{1}</li>').format(colour, label) for colour, label in entries
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(items))


def _scale(ends: tuple[str, str]) -> Markup:
    stops = ", ".join(style.hex_colour(fraction) for fraction in np.linspace(0, 1, 9))
    return Markup(
        '<div class="scale"><span>{0}</span><span class="ramp" style="background:linear-gradient(90deg, {1})"></span>'
        "<span>{2}</span></div>"
    ).format(ends[0], stops, ends[1])


def _places(values: NDArray[np.float64]) -> list[tuple[float, float] | None]:
    """Each person's position in the picture; None for a person who is not on this plane."""
    known = np.asarray(np.isfinite(values).all(axis=1))
    if not known.any():
        return [None] * len(values)
    low, high = values[known].min(axis=0), values[known].max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    share = (values - low) / span
    x = MARGIN + share[:, 0] * (WIDTH - 2 * MARGIN)
    y = HEIGHT - MARGIN - share[:, 1] * (HEIGHT - 2 * MARGIN)
    return [(round(float(a), 1), round(float(b), 1)) if fine else None for a, b, fine in zip(x, y, known, strict=True)]


def _mark(index: int, person: PersonDot, place: tuple[float, float] | None, colour: str) -> Markup:
    where = f"translate({place[0]} {place[1]})" if place else "translate(-99 -99)"
    common = Markup('class="dot{}" data-index="{}" fill="{}" transform="{}" role="img" aria-label="{}"{}').format(
        " new" if person.is_new else "", index, colour, where, person.label, Markup("") if place else Markup(" hidden")
    )
    title = Markup("<title>{}</title>").format(person.label)
    if person.is_new:
        return Markup('<path d="{}" {}>{}</path>').format(DIAMOND, common, title)
    return Markup('<circle r="5" {}>{}</circle>').format(common, title)


def _choice(label: str, name: str, options: Sequence[str]) -> Markup:
    items = Markup("").join(
        Markup('<option value="{}">{}</option>').format(index, option) for index, option in enumerate(options)
    )
    return Markup('<label>{} <select class="{}">{}</select></label>').format(label, name, items)


def _data(explorer: Explorer, places: Mapping[str, Sequence[tuple[float, float] | None]]) -> Markup:
    """The data of the script: positions, colours, and every person's card."""
    people = [
        {"title": person.title, "facts": [list(fact) for fact in person.facts]}
        | ({"picture": address(person.thumbnail)} if person.thumbnail else {})
        for person in explorer.people
    ]
    content: dict[str, Any] = {
        "planes": [list(of_plane) for of_plane in places.values()],
        "colours": [list(colouring.colours) for colouring in explorer.colourings],
        "people": people,
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def address(picture: bytes) -> str:
    """A PNG or JPEG as a data address."""
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def as_png(explorer: Explorer) -> bytes:
    """Every plane in every colouring, for figures/."""
    rows, columns = len(explorer.planes), len(explorer.colourings)
    new = np.array([person.is_new for person in explorer.people], dtype=bool)
    with style.canvas(3.0 * rows, 3.0 * columns) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        figure.subplots_adjust(left=0.02, right=0.99, top=1 - 0.12 / rows, bottom=0.02, hspace=0.14, wspace=0.06)
        for line, (name, values) in zip(grid, explorer.planes.items(), strict=True):
            for axes, colouring in zip(line, explorer.colourings, strict=True):
                colours = np.array(list(colouring.colours))
                axes.scatter(*values[~new].T, s=12, c=list(colours[~new]), linewidths=0)
                if new.any():
                    axes.scatter(
                        *values[new].T, s=26, c=list(colours[new]), marker="D", edgecolors=style.INK, linewidths=0.8
                    )
                axes.set_title(f"{name}: {colouring.title.lower()}")
                axes.set_xticks([])
                axes.set_yticks([])
        return style.png_bytes(figure)
