"""A norm at sites of graded strangeness, simulated: how honest and how sensitive is it after n controls of the site?

Values are smooth random fields on 16 x 16 x 16 voxels: five patterns that people share, a residue of 4 voxels FWHM, and a
person's own scatter (log mean square of SD 0.5). The norm has 20 people at each of three sites that differ by shifts of
0.5 SD and SD factors of about 1.16. A new site of strangeness s differs by a smooth shift of s SDs, five times that in
2 % of the voxels, and by a factor of 1 + 0.25 s of the SD or its inverse, in turn. Planted in copies of the tested people:
a ball of 59 voxels lowered by 2.5 SDs of the norm.

Per replicate (another norm and another site), n controls and 20 other people of the site. Writes simulated.jsonl; a second
run goes on. Prints one table.

    python analysis/16_new_site_simulated.py --out FOLDER --replicates 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from new_site import ARMS, LEVEL, Floats, Kept, NewSite, Norm, Settings, fit_norm, null_figures, over_draws
from scipy import ndimage

from gen3d.anomaly.calibration.calibrate import CalibrationSettings
from gen3d.maths.stats import auprc

SHAPE, VOXELS = (16, 16, 16), 16**3
STRANGENESS = (0.0, 0.5, 1.0, 2.0)
NUMBERS = (3, 5, 10, 20, 50)
SITES, PEOPLE_PER_SITE, TESTED = 3, 20, 20
SHARED_PATTERNS, SHARED_VARIANCE, PEOPLE_DIFFER = 5, 0.3, 0.5
LOST_SDS = 2.5
SETTINGS = Settings(CalibrationSettings(empirical_null=True))


class World:
    """One brain: SD, ageing and shared patterns of every voxel, and people drawn from it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([16, seed])
        self.sd = np.sqrt(8 / self.rng.chisquare(8, VOXELS))
        self.patterns = self.fields(SHARED_PATTERNS, 6.0)
        self.ageing = 0.3 * self.fields(1, 6.0)[0] * self.sd

    def fields(self, num: int, fwhm: float = 4.0) -> np.ndarray:
        """Smooth fields [num, V] of variance 1."""
        noise = self.rng.standard_normal((num, *SHAPE))
        smooth = ndimage.gaussian_filter(noise, (0, *[fwhm / 2.355] * 3), mode="wrap").reshape(num, -1)
        return np.asarray(smooth / smooth.std())

    def people(self, num: int, site: str) -> tuple[np.ndarray, pd.DataFrame]:
        """Values [num, V] of people without a site's effect, and their table."""
        own = np.sqrt(1 - SHARED_VARIANCE) * self.fields(num)
        weights = self.rng.standard_normal((num, SHARED_PATTERNS)) * np.sqrt(SHARED_VARIANCE / SHARED_PATTERNS)
        scatter = np.exp(0.5 * PEOPLE_DIFFER * self.rng.standard_normal(num))[:, None]
        ages = self.rng.uniform(20, 80, num)
        sexes = np.where(self.rng.random(num) < 0.5, "F", "M")
        names = [f"{site}-{number}" for number in self.rng.integers(0, 2**40, num)]
        table = pd.DataFrame({"subject": names, "age_years": ages, "sex": sexes, "site": site, "role": "calibration"})
        return self.sd * scatter * (own + weights @ self.patterns), table

    def shift(self, sds: float, local: float = 0.0) -> np.ndarray:
        """A site's shift [V], five times as strong in a share `local` of the voxels."""
        field, where = sds * self.fields(1, 5.0)[0], self.fields(1)[0]
        hot = where > np.quantile(where, 1 - local) if local else np.zeros(VOXELS, dtype=bool)
        return self.sd * (field + 4 * sds * hot)

    def at_site(self, num: int, site: str, shift: np.ndarray, factor: float) -> tuple[Floats, pd.DataFrame]:
        """Values [num, V] of people of a site, with ageing."""
        values, table = self.people(num, site)
        decades = (table["age_years"].to_numpy() - 50)[:, None] / 10
        return (factor * values + shift + decades * self.ageing).astype(np.float32), table


def make_norm(world: World) -> tuple[Norm, tuple[Floats, pd.DataFrame]]:
    """A norm of three sites, and the people behind it."""
    parts = [
        world.at_site(PEOPLE_PER_SITE, f"s{k}", world.shift(0.5), float(np.exp(0.15 * world.rng.standard_normal())))
        for k in range(SITES)
    ]
    values = np.vstack([part[0] for part in parts])
    people = pd.concat([part[1] for part in parts], ignore_index=True)
    return fit_norm(values, people, SETTINGS), (values, people)


def ball() -> np.ndarray:
    """A ball of 59 voxels, [V]."""
    places = np.indices(SHAPE).reshape(3, -1) - 8
    return np.asarray(np.square(places).sum(axis=0) <= 6)


def replicate(kept: Kept, seed: int, refit: bool) -> None:
    """All strangenesses and numbers of controls of one norm."""
    world, lesion = World(seed), ball()
    norm, base = make_norm(world)
    for strangeness in STRANGENESS:
        factor = (1 + 0.25 * strangeness) ** (1 if seed % 2 else -1)
        shift = world.shift(strangeness, 0.02)
        tested, table = world.at_site(TESTED, "new", shift, factor)
        planted = tested - (LOST_SDS * norm.norm.model.sd * lesion).astype(np.float32)
        for num in NUMBERS:
            controls = world.at_site(num, "new", shift, factor)
            arms = [arm for arm in ARMS if (arm != "unadapted" or num == NUMBERS[0]) and (arm != "refit" or refit)]
            site = NewSite(norm, base, controls, table, SETTINGS)
            for arm in arms:
                judge = site.judge(arm)
                row = {"seed": seed, "strangeness": strangeness, "n": 0 if arm == "unadapted" else num, "arm": arm}
                z = judge(planted)
                area = [auprc(-person, lesion) for person in z]
                found = [float((person[lesion] < -LEVEL).mean()) for person in z]
                kept.add({**row, **null_figures(judge(tested)), "auprc": np.round(area, 4).tolist(), "found": found})


def main() -> None:
    """Compute what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--replicates", type=int, default=60, help="norms, each with one new site per strangeness")
    parser.add_argument(
        "--first", type=int, default=100, help="number of the first norm; those below 100 chose the method"
    )
    parser.add_argument(
        "--refits", type=int, default=4, help="replicates in which the norm is also fitted again, which is slow"
    )
    given = parser.parse_args()
    kept = Kept(given.out / "simulated.jsonl")
    last = {"strangeness": STRANGENESS[-1], "n": NUMBERS[-1], "arm": "adapted"}
    for seed in range(given.first, given.first + given.replicates):
        if not kept.has(seed=seed, **last):
            kept.rows = [row for row in kept.rows if row["seed"] != seed]
            replicate(kept, seed, seed < given.first + given.refits)
            print(f"replicate {seed - given.first + 1} of {given.replicates}", flush=True)
    print("| strangeness | arm | n | beyond 1.96, % | FDR-positive people, % | AUPRC | planted voxels found, % |")
    print("|---" * 7 + "|")
    for strangeness in STRANGENESS:
        for arm in ARMS:
            for num in (0, *NUMBERS):
                rows = [
                    row for row in kept.rows if (row["strangeness"], row["arm"], row["n"]) == (strangeness, arm, num)
                ]
                if rows:
                    columns = [over_draws(rows, name) for name in ("beyond", "positive", "auprc", "found")]
                    print(f"| {strangeness:g} | {arm} | {num} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
