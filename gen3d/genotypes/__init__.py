"""Genotypes: readers, quality control, APOE, polygenic scores (`gen3d genotypes`)."""
