"""Started by torchrun: answers one request, and notes the sentence it ended with.

torchrun --nproc-per-node N -m tests.synthesis.sampler REQUEST.json RESULT.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from gen3d.core.errors import UserError
from gen3d.synthesis.sample import Sample


def main() -> None:
    request, result = (Path(argument) for argument in sys.argv[1:3])
    sentence = ""
    try:
        Sample.model_validate(json.loads(request.read_text())).run()
    except UserError as error:
        sentence = str(error)
    if os.environ["RANK"] == "0":
        result.write_text(json.dumps(sentence))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
