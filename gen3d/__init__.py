"""gen3d: unsupervised generative modelling of 3D structural brain MRI."""

from __future__ import annotations

__version__ = "0.1.0"
