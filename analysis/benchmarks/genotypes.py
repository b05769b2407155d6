"""Time and memory of `gen3d genotypes` on a simulated .bed file: python analysis/benchmarks/genotypes.py [VARIANTS] [PEOPLE].

Calls are drawn in equilibrium from a pool of 20,000 independent variants, which is repeated along the genome; a twentieth of them
is rare. Nothing is found in such a file, so that the figures are those of a clean cohort.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gen3d.genotypes.genotypes import Genotypes

POOL = 20_000
BASES = np.array([("A", "G"), ("C", "T"), ("A", "C"), ("G", "T")])
MAGIC = bytes((0x6C, 0x1B, 0x01))
CODES = np.array([0b11, 0b10, 0b00], dtype=np.uint8)
"""Of 0, 1 and 2 copies of allele 1 in a .bed file."""


def packed(copies: np.ndarray) -> np.ndarray:
    """Calls [variants, people] as a .bed file holds them, [variants, bytes]."""
    codes = CODES[copies]
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    return (codes[:, 0::4] | codes[:, 1::4] << 2 | codes[:, 2::4] << 4 | codes[:, 3::4] << 6).astype(np.uint8)


def write_bed(folder: Path, num_variants: int, num_people: int) -> Path:
    """A .bed file with its companions and a cohort table."""
    generator = np.random.default_rng(0)
    frequency = np.where(generator.random(POOL) < 0.05, 0.005, generator.uniform(0.05, 0.95, POOL))
    pool = np.concatenate(
        [
            packed(generator.binomial(2, part[:, None], (len(part), num_people)))
            for part in np.array_split(frequency, 40)
        ]
    )
    path = folder / "cohort.bed"
    with path.open("wb") as stream:
        stream.write(MAGIC)
        for start in range(0, num_variants, POOL):
            stream.write(pool[: min(POOL, num_variants - start)].tobytes())
    pairs = BASES[generator.integers(len(BASES), size=num_variants)]
    chromosomes = np.sort(1 + np.arange(num_variants) % 22)
    lines = (
        f"{chromosome}\tv{place}\t0\t{1000 + 100 * place}\t{one}\t{other}\n"
        for place, (chromosome, (one, other)) in enumerate(zip(chromosomes, pairs, strict=True))
    )
    path.with_suffix(".bim").write_text("".join(lines), encoding="utf-8")
    people = [f"p{number}" for number in range(num_people)]
    path.with_suffix(".fam").write_text("".join(f"0\t{name}\t0\t0\t0\t-9\n" for name in people), encoding="utf-8")
    rows = (f"{name}\t{'CN' if number % 2 else 'AD'}\n" for number, name in enumerate(people))
    (folder / "cohort.tsv").write_text("subject\tdiagnosis\n" + "".join(rows), encoding="utf-8")
    return path


def main() -> None:
    """Write the file, read it, and print time and the largest memory of this process."""
    num_variants, num_people = (int(word) for word in (*sys.argv[1:], "500000", "5000")[:2])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = write_bed(folder, num_variants, num_people)
        start = time.perf_counter()
        Genotypes(source=source, table=folder / "cohort.tsv", build="GRCh38", out=folder / "genotypes").run()
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{num_variants} variants x {num_people} people: {seconds:.0f} s, {peak:.2f} GiB at most")


if __name__ == "__main__":
    main()
