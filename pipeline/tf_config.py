"""`python -m pipeline.tf_config COMMAND...`: runs a command with TF_CONFIG derived from what Kubernetes says of a pod.

For clusters whose training operator sets none, such as Kubeflow Trainer v2; see `schemas.tf_config.derive`.
"""

import json
import os
import sys
from collections.abc import Sequence

from schemas.config import ConfigError
from schemas.tf_config import VARIABLE, derive

EXIT_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Replaces this process by the command; returns only when it cannot."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else EXIT_USAGE
    try:
        # Who is told already knows better.
        config = None if os.environ.get(VARIABLE) else derive(os.environ)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    if config is not None:
        os.environ[VARIABLE] = json.dumps(config)
    try:
        os.execvp(arguments[0], list(arguments))
    except OSError as error:
        print(f"error: {arguments[0]}: {error.strerror}", file=sys.stderr)
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
