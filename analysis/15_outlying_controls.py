"""How often does one outlying control decide who is detected, and what does the rule against it cost?

    python analysis/15_outlying_controls.py [--repeats 1000] [--maps MAPS]

Inputs: none for the error rates. Scores of controls and of healthy people are drawn from four distributions: log-normal; Pareto
(heavier tail); exponential (lighter tail); |Student's t| with 3 degrees of freedom to the power of 2. None, one or two
controls are outlying: 8 and 9 times the largest other control. A person is detected if p is at most 5 %, by rank and by
`maths.reference`. Power is for the score that one healthy person in 100 and in 1,000 exceeds.

With --maps, a maps folder of `gen3d anomaly`: whose heaviest cluster is how heavy, and who is detected by either p, after
each calibration control's heaviest cluster in turn was made 31 / 3.8 times the heaviest.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.folder import CLUSTERS, SUBJECTS
from gen3d.maths.reference import ReferenceScores
from gen3d.maths.significance import conformal_p

LEVEL = 0.05 + 1e-9
FACTORS = (8.0, 9.0)
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
SHAPES: dict[str, Draw] = {
    "log-normal": lambda generator, num: np.exp(generator.normal(size=num)),
    "Pareto": lambda generator, num: np.exp(generator.exponential(size=num)),
    "exponential": lambda generator, num: generator.exponential(size=num),
    "t squared": lambda generator, num: np.square(generator.standard_t(3, size=num)),
}
PEOPLE = (8, 15, 19, 30, 35, 100)


def rates(
    draw: Draw, num: int, num_outliers: int, repeats: int, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """By rank and by reference: share of healthy people detected, and power at the 99th and 99.9th percentile."""
    generator = np.random.default_rng([seed, num, num_outliers])
    high = np.quantile(draw(generator, 400_000), [0.99, 0.999])
    found = {"rank": np.zeros(3), "reference": np.zeros(3)}
    for _ in range(repeats):
        controls = np.sort(draw(generator, num))
        if num_outliers:
            controls[-num_outliers:] = controls[-num_outliers - 1] * np.array(FACTORS[:num_outliers])
        asked = np.concatenate([draw(generator, 200), high])
        for name, p in (("rank", conformal_p(controls, asked)), ("reference", ReferenceScores.of(controls).p(asked))):
            found[name] += [(p[:-2] <= LEVEL).mean(), p[-2] <= LEVEL, p[-1] <= LEVEL]
    return {name: tuple(total / repeats) for name, total in found.items()}


def set_aside(draw: Draw, num: int, repeats: int) -> float:
    """How often a control is called outlying where none is."""
    generator = np.random.default_rng([1, num])
    return float(np.mean([ReferenceScores.of(draw(generator, num)).num_outlying > 0 for _ in range(repeats)]))


def of_maps(folder: Path) -> None:
    """People of a maps folder who are detected with and without one control whose brain is unusual."""
    clusters, subjects = CLUSTERS.read(folder), SUBJECTS.read(folder)
    for channel, part in clusters.groupby("channel"):
        heaviest = part.groupby("key")["volume_ml"].max().reindex(subjects["key"]).fillna(0.0)
        scores = heaviest.to_numpy()
        controls = scores[subjects["role"].isin(["calibration", "train"])]
        tested = scores[(subjects["role"] == "test").to_numpy()]
        others = scores[(subjects["role"] == "evaluation").to_numpy()]
        print(f"\n{channel}: {len(controls)} controls, volume of the largest cluster in ml")
        print("  largest of the controls: " + ", ".join(f"{value:.2f}" for value in np.sort(controls)[::-1][:5]))
        print(f"  outlying: {ReferenceScores.of(controls).outlying}")
        spoilt = np.append(np.delete(controls, np.argmin(controls)), controls.max() * 31 / 3.8)
        for name, reference in (("as they are", controls), ("one of them 8.2 times the largest", spoilt)):
            ranks, robust = conformal_p(reference, others), ReferenceScores.of(reference).p(others)
            healthy = ReferenceScores.of(reference).p(tested)
            print(
                f"  {name}: detected by rank {np.sum(ranks <= LEVEL)} and by reference {np.sum(robust <= LEVEL)} of "
                f"{len(others)}; of {len(tested)} test controls {np.sum(conformal_p(reference, tested) <= LEVEL)} and "
                f"{np.sum(healthy <= LEVEL)}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--maps", type=Path)
    given = parser.parse_args()
    if given.maps is not None:
        of_maps(given.maps)
        return
    print("| scores | outlying | " + " | ".join(f"n = {num}" for num in PEOPLE) + " |")
    print("|---" * (len(PEOPLE) + 2) + "|")
    for shape, draw in SHAPES.items():
        for num_outliers in range(3):
            for name in ("rank", "reference"):
                cells = []
                for num in PEOPLE:
                    false, power, far = rates(draw, num, num_outliers, given.repeats)[name]
                    cells.append(f"{100 * false:.1f} / {100 * power:.0f} / {100 * far:.0f}")
                print(f"| {shape}, {name} | {num_outliers} | {' | '.join(cells)} |", flush=True)
        aside = [f"{100 * set_aside(draw, num, given.repeats):.0f} %" for num in PEOPLE]
        print(f"| {shape}: a control set aside where none is outlying | 0 | {' | '.join(aside)} |", flush=True)


if __name__ == "__main__":
    main()
