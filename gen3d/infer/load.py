"""Moved to gen3d.models.run."""

from gen3d.models.run import (  # noqa: F401
    Float,
    OneRun,
    Run,
    load_run,
)
