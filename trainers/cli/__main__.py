"""``python -m trainers.cli`` is ``icto``."""

import sys

from trainers.cli.main import main

sys.exit(main())
