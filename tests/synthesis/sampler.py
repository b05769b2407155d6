"""Started by torchrun: answers each request of a JSON file in turn, and notes the sentence it ended with.

torchrun --nproc-per-node N -m tests.synthesis.sampler REQUESTS.json RESULTS.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from gen3d.core.errors import UserError
from gen3d.synthesis.sample import Sample


def answer(request: dict[str, Any]) -> str:
    """The sentence that a request ends with; '' when it was answered."""
    try:
        Sample.model_validate(request).run()
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    requests, results = (Path(argument) for argument in sys.argv[1:3])
    sentences = [answer(request) for request in json.loads(requests.read_text())]
    if os.environ["RANK"] == "0":
        results.write_text(json.dumps(sentences))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
