"""`gen3d stratify`: a map of people, whether they form clusters, and what the clusters go with."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core.artefact import read
from gen3d.core.config import Folder, Folders
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.result_folder import METRICS, write_picture
from gen3d.core.work import FolderVerb, Inputs
from gen3d.latents.embedding import MINIMUM_PEOPLE_FOR_UMAP, FittedComponents, fit_components, fit_umap
from gen3d.maths.neighbourhoods import trustworthiness
from gen3d.stratify.adjustment import Adjustment, fit_adjustment
from gen3d.stratify.associations import ASSOCIATION_COLUMNS, associations, strongest_confound
from gen3d.stratify.cluster_maps import ClusterMap, cluster_maps
from gen3d.stratify.folder import PeopleMap, cluster_name, with_versions, write_strata
from gen3d.stratify.people import ClusteredPeople, open_people
from gen3d.stratify.picture import draw_cluster_maps, draw_map, recorded_prepared, write_thumbnails
from gen3d.stratify.sentences import sentences
from gen3d.stratify.structure import Method, Structure, find_structure, limits_with_many

PERMUTATIONS = 999
"""The smallest p is then 0.001."""
PEOPLE_PER_COMPONENT = 5
"""With fewer people per component, clusters follow noise in single people."""
ANATOMIES = 20
"""Scans in the mean behind the cluster maps: more make it no sharper."""


Opened = tuple[ClusteredPeople, Adjustment | None, FittedComponents]


class Stratify(FolderVerb):
    """Map people by their latents, test for clusters, and describe them.

    Principal components and a seeded UMAP are kept, so that new people can be added to the map. Clusters are compared with
    those of simulated cohorts of one group with the same variance, skew and tails. Where they are no better, or unstable in
    resampled people, the verdict is "no stable structure" and nobody has a cluster. Clusters are then compared with every
    column of the table, site, age and sex first: a scanner is not a subtype.
    """

    latents: Folders = Field(
        description="latents folders (encode or harmonise) of one run; one scan per person is used"
    )
    maps: Folder | None = Field(None, description="maps folder (anomaly), for a mean z map of every cluster")
    prepared: Folders | None = Field(
        None,
        description="prepared folders for thumbnails; none: those that the latents were made from, where present",
    )
    people: Literal["everybody", "evaluation"] = Field(
        "everybody", description="who is clustered: everybody, or only people with the role evaluation (patients)"
    )
    components: int = Field(
        10, ge=1, le=100, description="principal components to cluster and map; at most a fifth of the people are used"
    )
    adjust: tuple[str, ...] = Field(
        (), description="columns whose effect on the latents is regressed out first, for example [age_years, sex, site]"
    )
    method: Method = Field("mixture", description="mixture: normal mixtures, their number by BIC; density: HDBSCAN")
    max_clusters: int = Field(6, ge=2, le=20, description="most clusters of a mixture")
    bootstrap: int = Field(100, ge=20, description="bootstrap resamples of people for the stability of clusters")
    null_draws: int = Field(
        100, ge=20, description="simulated cohorts of one group that the clusters are compared with"
    )
    neighbours: int = Field(15, ge=2, description="people in the neighbourhoods that UMAP keeps")
    minimum_distance: float = Field(0.1, ge=0, le=1, description="how tightly UMAP packs people, in units of its map")
    seed: int = Field(0, description="seed of UMAP, clusters, resampling and permutations")

    def plan(self) -> list[str]:
        """Who would be clustered."""
        cohort = open_people(self.latents, self.people)
        return [
            f"clusters {len(cohort.table)} people with {cohort.values.shape[1]} latent dimensions by {self.method}",
            *cohort.left_out,
            *limits_with_many(len(cohort.table), self.method),
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The latents, and the maps and scans where they are named."""
        optional = {"maps": self.maps, "prepared": self.prepared}
        return {"latents": self.latents, **{name: value for name, value in optional.items() if value is not None}}

    def open_inputs(self) -> Opened:
        """Open the people to be clustered, their adjustment, and the components of their latents."""
        if self.maps is not None:  # a wrong folder stops the verb before the work, not after it
            read(self.maps, ("anomaly",))
        if self.prepared is not None:
            open_prepared(self.prepared)
        cohort = open_people(self.latents, self.people)
        adjustment = fit_adjustment(cohort.values, cohort.table, self.adjust) if self.adjust else None
        return cohort, adjustment, self._components(cohort, adjustment)

    def write(self, work: Work, opened: Opened) -> dict[str, Any]:
        """Write strata.tsv, metrics.json with its tables, map.npz, maps/, thumbnails/ and figures/."""
        cohort, adjustment, components = opened
        scores = components.coordinates
        structure = find_structure(scores, self.method, self.max_clusters, self.bootstrap, self.null_draws, self.seed)
        kept = self._map(cohort, components, adjustment, structure)
        kept.write(self.out)
        strata = strata_table(cohort, kept, structure)
        values = cohort.values if adjustment is None else adjustment.apply(cohort.values, cohort.table)
        tables = self._tables(cohort, kept, structure, values)
        pictured = self._pictures(strata, kept)
        if pictured:
            tables["cluster_maps"] = pd.DataFrame([each.row() for each in pictured])
        summary = sentences(
            structure, tables["associations"], tables["map_quality"], len(strata), list(cohort.left_out)
        )
        follows = strongest_confound(tables["associations"]) if structure.is_stable else None
        num_clusters = structure.solution.num_clusters if structure.is_stable and structure.solution else 0
        metrics = {
            "summary": summary,
            "structure": structure.is_stable,
            "num_clusters": num_clusters,
            "follows": None if follows is None else str(follows["column"]),
            "num_people": len(strata),
            "share_of_variance": [float(share) for share in kept.share_of_variance],
        }
        write_strata(self.out, strata, metrics, tables)
        for sentence in summary:
            say(sentence)
        say(f"{self.out / METRICS}")
        return {"summary": summary[:1], "num_people": len(strata), "num_clusters": num_clusters}

    def _components(self, cohort: ClusteredPeople, adjustment: Adjustment | None) -> FittedComponents:
        values = cohort.values if adjustment is None else adjustment.apply(cohort.values, cohort.table)
        most = max(1, min(self.components, len(values) // PEOPLE_PER_COMPONENT))
        fitted = fit_components(values, most)
        spread = fitted.coordinates.std(axis=0)
        scale = float(np.abs(cohort.values).max())
        varying = spread > max(1e-6 * float(spread[0]), 1e-6 * scale)
        if not varying.any():
            raise UserError(
                f"{cohort.folders}: the latents of all {len(values)} people are identical, so there is nothing to map; the VAE "
                "has collapsed, train it with a lower model.beta."
            )
        return FittedComponents(
            fitted.mean, fitted.loadings[varying], fitted.coordinates[:, varying], fitted.share_of_variance[varying]
        )

    def _map(
        self, cohort: ClusteredPeople, components: FittedComponents, adjustment: Adjustment | None, structure: Structure
    ) -> PeopleMap:
        scores, solution = components.coordinates, structure.solution if structure.is_stable else None
        num = len(scores)
        enough = num >= MINIMUM_PEOPLE_FOR_UMAP and scores.shape[1] > 1
        fitted = fit_umap(scores, self.seed, self.neighbours, self.minimum_distance) if enough else None
        settings = {
            "seed": self.seed,
            "num_neighbours": self.neighbours,
            "minimum_distance": self.minimum_distance,
            "method": self.method,
            "run_key": cohort.run_key,
        }
        return PeopleMap(
            keys=tuple(cohort.table["key"].astype(str)),
            mean=components.mean,
            loadings=components.loadings,
            share_of_variance=components.share_of_variance,
            scores=scores,
            umap=np.full((num, 2), np.nan) if fitted is None else fitted,
            labels=np.full(num, -1, dtype=np.int64) if solution is None else solution.labels,
            certainty=np.full(num, np.nan) if solution is None else solution.certainty,
            mixture=None if solution is None else solution.mixture,
            adjustment=adjustment,
            settings=with_versions(settings),
        )

    def _tables(
        self, cohort: ClusteredPeople, kept: PeopleMap, structure: Structure, values: NDArray[np.float64]
    ) -> dict[str, pd.DataFrame]:
        associated = pd.DataFrame(columns=list(ASSOCIATION_COLUMNS))
        if structure.is_stable:
            inside = kept.labels >= 0
            table = cohort.table.loc[inside].reset_index(drop=True)
            associated = associations(table, kept.labels[inside], PERMUTATIONS, self.seed)
        tables = {
            "structure": structure.statistics,
            "solutions": structure.solutions,
            "clusters": clusters_table(cohort.table, structure),
            "associations": associated,
            "map_quality": quality_table(
                values, {"umap": kept.umap, "pc1_pc2": kept.scores[:, :2]}, self.neighbours, self.seed
            ),
        }
        if not structure.is_stable and structure.solution is not None and structure.stability is not None:
            tables["exploratory"] = pd.DataFrame(
                {
                    "key": cohort.table["key"],
                    "cluster": [cluster_name(label) for label in structure.solution.labels],
                    "certainty": structure.solution.certainty,
                    "consensus": structure.stability.consensus,
                }
            )
        return tables

    def _pictures(self, strata: pd.DataFrame, kept: PeopleMap) -> list[ClusterMap]:
        write_picture(self.out, "map", draw_map(strata, [float(share) for share in kept.share_of_variance]))
        keys = [str(key) for key in strata["key"]]
        prepared = open_prepared(self.prepared) if self.prepared else recorded_prepared(self.latents)
        if prepared is not None:
            num = write_thumbnails(self.out, prepared, keys)
            if num < len(keys):
                say(f"{len(keys) - num} of {len(keys)} people have no thumbnail: their scans are not in prepared=.")
        if self.maps is None or not kept.has_clusters:
            return []
        averaged = cluster_maps(self.maps, keys, [str(name) for name in strata["cluster"]], self.out)
        anatomy = mean_anatomy(prepared, keys, averaged[0].mean_z.shape)
        write_picture(self.out, "cluster_maps", draw_cluster_maps(averaged, anatomy))
        return averaged


def strata_table(cohort: ClusteredPeople, kept: PeopleMap, structure: Structure) -> pd.DataFrame:
    """The people's rows of the cohort table with pc1.., umap1, umap2, cluster ("" for none), certainty, consensus."""
    frame = cohort.table.drop(columns=["folder"], errors="ignore").copy()
    first = [name for name in ("key", "subject", "session") if name in frame.columns]
    frame = frame[[*first, *[name for name in frame.columns if name not in first]]]
    added: dict[str, Any] = {f"pc{place + 1}": column for place, column in enumerate(kept.scores.T)}
    added |= {"umap1": kept.umap[:, 0], "umap2": kept.umap[:, 1]}
    consensus = np.full(len(frame), np.nan)
    if structure.is_stable and structure.stability is not None:
        consensus = structure.stability.consensus
    added |= {
        "cluster": [cluster_name(label) for label in kept.labels],
        "certainty": kept.certainty,
        "consensus": consensus,
    }
    rest = frame.drop(columns=[name for name in added if name in frame.columns])
    return pd.concat([rest, pd.DataFrame(added, index=frame.index)], axis=1)


def clusters_table(table: pd.DataFrame, structure: Structure) -> pd.DataFrame:
    """One row per stable cluster: people, stability (Hennig's Jaccard), consensus, age, share of women, diagnoses."""
    columns = ["cluster", "num_people", "share", "stability", "consensus"]
    columns += ["mean_age_years", "sd_age_years", "share_female", "diagnoses"]
    solution, stability = structure.solution, structure.stability
    if not structure.is_stable or solution is None or stability is None:
        return pd.DataFrame(columns=columns)
    rows = []
    for cluster in range(solution.num_clusters):
        inside = solution.labels == cluster
        people = table.loc[inside]
        sex = people["sex"].astype(str).str.upper()
        counts = people["diagnosis"].astype(str).replace("", "unknown").value_counts()
        rows.append(
            (
                cluster_name(cluster),
                int(inside.sum()),
                float(inside.mean()),
                float(stability.clusters[cluster]),
                float(np.nanmean(stability.consensus[inside])),
                float(people["age_years"].mean()),
                float(people["age_years"].std()),
                float((sex == "F").sum() / max(1, sex.isin(["F", "M"]).sum()))
                if sex.isin(["F", "M"]).any()
                else np.nan,
                ", ".join(f"{name} {num}" for name, num in counts.items()),
            )
        )
    return pd.DataFrame(rows, columns=columns)


def quality_table(
    values: NDArray[np.float64], maps: dict[str, NDArray[np.float64]], neighbours: int, seed: int
) -> pd.DataFrame:
    """Trustworthiness and continuity of maps of people [n, 2], and of random places, against their latents [n, d].

    Both by Venna and Kaski 2001. Trustworthiness falls where a map shows neighbours that are none; continuity, which is
    the same with the two spaces exchanged, where it tears neighbours apart.
    """
    num = len(values)
    size = max(1, min(neighbours, (num - 1) // 2))
    chance = np.random.default_rng(seed).standard_normal((num, 2))
    rows = []
    for name, coordinates in (maps | {"random": chance}).items():
        if np.isfinite(coordinates).all():
            trusted = trustworthiness(values, coordinates, size)
            continuity = trustworthiness(coordinates, values, size)
            rows.append((name, trusted, continuity, size, num))
    return pd.DataFrame(rows, columns=["map", "trustworthiness", "continuity", "neighbours", "num_people"])


def mean_anatomy(prepared: Prepared | None, keys: list[str], shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """The mean T1w of at most 20 people evenly over the list, or None without scans on this grid."""
    if prepared is None or prepared.plan.shape != shape:
        return None
    present = set(prepared.manifest["key"].astype(str))
    listed = [key for key in keys if key in present and prepared.path(key, "t1w").is_file()]
    if not listed:
        return None
    chosen = listed[:: max(1, len(listed) // ANATOMIES)][:ANATOMIES]
    return np.mean([prepared.volume(key, "t1w") for key in chosen], axis=0, dtype=np.float32)
