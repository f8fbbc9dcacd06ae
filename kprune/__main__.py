"""`python -m kprune`: the command."""

import sys

from kprune.command_line import main

sys.exit(main())
