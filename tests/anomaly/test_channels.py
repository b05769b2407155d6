"""Channel values of one scan against its expectation."""

from __future__ import annotations

import numpy as np

from gen3d.anomaly.channels import ChannelMaker, ScanComparison
from gen3d.cohort.channels import T1W


def test_where_the_scan_has_no_brain_there_is_no_residual() -> None:
    mask = np.ones((8, 8, 8), bool)
    observed = np.full(mask.shape, 0.7, np.float32)
    observed[:4] = 0.0  # cut away by skull stripping
    comparison = ScanComparison({T1W: observed}, {T1W: np.full(mask.shape, 0.9, np.float32)})
    residual = ChannelMaker(mask, 2.0, 0.0).sharp(comparison, "residual").reshape(mask.shape)
    assert not residual[:4].any()
    assert np.allclose(residual[4:], -0.2)
