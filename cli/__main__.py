"""``python -m edgewise.cli`` is the command ``edgewise``."""

import sys

from edgewise.cli.main import main

sys.exit(main())
