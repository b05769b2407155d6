"""Animations and pictures of maps."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gen3d.explain.animation import FRAMES, Painted, animated
from gen3d.explain.pictures import draw, shown_map
from gen3d.figures import style
from gen3d.figures.brain import DisplaySpace
from tests.explain.small import BRAIN, SHAPE, TARGET

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
AFFINE[:3, 3] = [-40.0, -60.0, -40.0]
SPACE = DisplaySpace(AFFINE, BRAIN)


def painted() -> Painted:
    return Painted(
        np.where(TARGET, 8.0, 0.5), np.where(BRAIN, 0.9, 0.0), 2.0, 6.0, style.stage_colours(("CN", "AD"))["AD"]
    )


@pytest.mark.parametrize(("kind", "form"), [("webp", "WEBP"), ("apng", "PNG"), ("gif", "GIF")])
def test_three_planes_move_together_and_the_map_is_in_the_colour_of_its_class(kind: str, form: str) -> None:
    content = animated(painted(), SPACE, kind)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == form
        assert 15 <= image.n_frames <= FRAMES  # type: ignore[attr-defined]
        coloured = []
        for number in range(image.n_frames):  # type: ignore[attr-defined]
            image.seek(number)
            pixels = np.asarray(image.convert("RGB")).astype(int)
            coloured.append(int(((pixels[..., 0] - pixels[..., 1]) > 60).sum()))
    assert max(coloured) > 100
    assert coloured[-1] == 0  # the target lies in front of it
    assert len(content) < 3_000_000


def test_stages_are_green_yellow_and_red() -> None:
    three = style.stage_colours(("CN", "MCI", "AD"))
    green, yellow, red = (style.rgb(three[name]) for name in ("CN", "MCI", "AD"))
    assert green[1] > max(green[0], green[2])
    assert min(yellow[:2]) > yellow[2]
    assert red[0] > max(red[1:])
    assert list(style.stage_colours(("CN", "AD")).values()) == [three["CN"], three["AD"]]
    assert style.stage_colours(("everybody",)) == {"everybody": three["AD"]}


def test_below_the_threshold_nothing_is_shown_and_nothing_at_all_of_a_flat_map() -> None:
    alpha = style.opacity(np.array([0.0, 1.99, 2.0, 6.0, 50.0]), 2.0, 6.0)
    assert alpha.tolist() == pytest.approx([0.0, 0.0, 0.4, 0.92, 0.92])
    assert not style.opacity(np.ones(3), float("inf"), 3.0).any()


def test_a_picture_has_a_row_per_method_with_its_verdict() -> None:
    judges = [
        {"method": "grad_cam", "judge": "truth", "passed": False},
        {"method": "occlusion", "judge": "truth", "passed": True},
    ]
    maps = [
        shown_map(name, np.where(TARGET, 8.0, 0.5), BRAIN, ("otsu", 10.0, 2.0), 6.0)
        for name in ("grad_cam", "occlusion")
    ]
    assert 0.5 < maps[0].threshold < 8.0
    png = draw(maps, np.where(BRAIN, 0.9, 0.0), SPACE, style.STAGES[2], judges)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert ((pixels[..., 0] - pixels[..., 1]) > 60).sum() > 200
    assert SHAPE[0] < image.width
