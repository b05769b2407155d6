"""Adds one line to the registry of models, then runs `gen3d` with each list of words of a JSON file in turn.

    python -m tests.contracts.train_new_model COMMANDS.json

It is a process of its own, because the registry is read when the verb `train` is loaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gen3d.cli import main
from gen3d.models.registry import KINDS, Kind

KINDS["smoother"] = Kind(
    "tests.contracts.new_model:SmootherConfig", "Smoother", "tests.contracts.new_model:SmootherTask"
)

if __name__ == "__main__":
    for words in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if code := main(words):
            sys.exit(code)
