"""The latent space of a family is that of its first member: members have spaces of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from gen3d.cohort.latents_folder import LatentsFolder
from gen3d.figures.blocks import Figure
from gen3d.latents.section import section
from gen3d.report.open import open_context
from tests.world import World


def test_latents_of_a_family_are_those_of_its_first_member(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "latents"
    shutil.copytree(world["latents"], folder)
    values = np.load(folder / "latents.npy")
    np.save(folder / "latents.npy", np.stack([values, values + 100.0]))
    found = open_context([folder]).all(LatentsFolder)[0]
    np.testing.assert_array_equal(found.values, values.reshape(len(values), -1))
    assert len(found.values) == len(found.scan_table)


def test_people_of_the_latent_space_are_explored_plane_by_plane(world: World) -> None:
    context = open_context([world["latents"]], 2)
    found = section(context)
    assert found is not None
    figure = next(block for block in found.blocks if isinstance(block, Figure))
    markup, keys = str(figure.markup), [str(key) for key in context.all(LatentsFolder)[0].scan_table["key"]]
    assert markup.count('class="dot"') == len(keys)
    assert all(f'aria-label="{key}, diagnosis ' in markup for key in keys)
    assert '<option value="0">Principal components</option><option value="1">UMAP</option>' in markup
    assert '<option value="0">Diagnosis</option><option value="1">Age</option>' in markup
    assert figure.png.startswith(b"\x89PNG")
