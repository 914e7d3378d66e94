# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One phase of a soak, as `run_apart` starts it."""

from __future__ import annotations

import json
from pathlib import Path
import sys

from etuner_ros.bench.soak.apart import stage_of
from etuner_ros.bench.soak.phases import PHASES
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import replace_file
from etuner_ros.nodes.running import use_dds_profile


def main() -> int:
    """Run it; write what it found."""
    arguments = json.loads(sys.argv[1])
    use_dds_profile()
    try:
        found = PHASES[arguments['phase']](*stage_of(arguments))
    except EtunerError as error:  # says what to read, which an exit code does not
        found = {'broken': [str(error)]}
    replace_file(Path(arguments['answer']), json.dumps(found).encode())
    return 0


if __name__ == '__main__':
    sys.exit(main())
