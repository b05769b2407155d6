"""Report section of `gen3d encode`: the latent space in two dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from gen3d.cohort.latents_folder import LatentsFolder
from gen3d.core import words as spell
from gen3d.figures import charts, explorer, style
from gen3d.figures import names as wording
from gen3d.figures.blocks import Figure, Heading, Section, Text
from gen3d.figures.context import Context, page_section
from gen3d.figures.explorer import Colouring, Explorer, PersonDot
from gen3d.latents.embedding import principal_components, umap_coordinates


@page_section("Latent space", "`gen3d encode`", place=80, reads=LatentsFolder)
def section(context: Context) -> Section | None:
    """PCA and UMAP of every latents folder, coloured by diagnosis, age and site."""
    usable = [latents for latents in context.all(LatentsFolder) if len(latents.scan_table) >= 3]
    if not usable:
        return None
    blocks: list[Any] = [
        Text(
            "The latent vector is the model's short description of a brain. People who lie close together look alike to the "
            "model. Principal components keep distances. UMAP keeps neighbourhoods, so the distance between two far points "
            "means nothing."
        )
    ]
    numbers: dict[str, Any] = {}
    for latents in usable:
        figure, figures = _figure(context, latents)
        if len(usable) > 1:
            blocks.append(Heading(latents.name))
        blocks.append(figure)
        numbers[latents.name] = figures
    return Section("latent", "Latent space", blocks, numbers)


def _figure(context: Context, latents: LatentsFolder) -> tuple[Figure, dict[str, Any]]:
    table, values = latents.scan_table, latents.values
    components = principal_components(values)
    neighbours = umap_coordinates(values, context.seed)
    keys = [str(key) for key in table["key"]]
    planes = {"Principal components": components.coordinates}
    if neighbours is not None:
        planes["UMAP"] = neighbours
    name = f"latent_{latents.artefact.folder.name}"
    people = [PersonDot(key, key, _facts(row)) for key, (_, row) in zip(keys, table.iterrows(), strict=True)]
    scatter = Explorer(f"explore_{name}", people, planes, _colourings(context, table), "People in latent space.")
    shares = components.share_of_variance
    caption = (
        f"Latent vectors of {spell.people(table['subject'].nunique())} ({latents.description}, "
        f"{latents.name}). The two principal components hold "
        f"{spell.percent(float(shares[0]))} and {spell.percent(float(shares[1]))} of the variance. "
        + ("" if neighbours is not None else "There are too few people for a UMAP (12 are needed). ")
        + "The figure's file holds every plane in every colour."
    )
    figure = Figure(
        name,
        "Scatter of people in latent space.",
        caption,
        explorer.as_png(scatter),
        markup=explorer.explore(scatter),
    )
    numbers = {
        "num_scans": len(table),
        "num_dimensions": int(values.shape[1]),
        "share_of_variance": [float(share) for share in shares],
        "principal_components": components.coordinates.round(4).tolist(),
        "umap": None if neighbours is None else neighbours.round(4).tolist(),
        "keys": keys,
    }
    return figure, numbers


def _facts(row: pd.Series) -> list[tuple[str, str]]:
    """The lines of a person's card."""
    age = row.get("age_years", np.nan)
    facts = [("diagnosis", wording.group(str(row.get("diagnosis", ""))))]
    facts += [("age", f"{age:.0f} years")] if np.isfinite(age) else []
    return facts + [(name, str(row[name])) for name in ("sex", "site") if row.get(name)]


def _colourings(context: Context, table: pd.DataFrame) -> list[Colouring]:
    diagnoses = table["diagnosis"].astype(str)
    colours = style.group_colours([*context.groups, *sorted(set(diagnoses) - set(context.groups))], context.controls)
    present = [group for group in colours if (diagnoses == group).any()]
    colourings = [
        Colouring(
            "Diagnosis",
            [colours[name] for name in diagnoses],
            [(colours[name], name or charts.UNNAMED) for name in present],
        )
    ]
    ages = pd.to_numeric(table.get("age_years", pd.Series(np.nan, index=table.index)), errors="coerce")
    if ages.notna().sum() > 1 and ages.max() > ages.min():
        fractions = (ages - ages.min()) / (ages.max() - ages.min())
        dots = [style.hex_colour(f) if np.isfinite(f) else style.FAINT for f in fractions]
        colourings.append(Colouring("Age", dots, scale=(f"{ages.min():.0f} years", f"{ages.max():.0f} years")))
    sites = table["site"].astype(str)
    if sites.nunique() > 1:
        by_site = style.category_colours(sorted(sites.unique()))
        colourings.append(
            Colouring("Site", [by_site[name] for name in sites], [(colour, name) for name, colour in by_site.items()])
        )
    return colourings
