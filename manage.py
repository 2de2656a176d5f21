#!/usr/bin/env python
"""The command line in a checkout. `manage.py serve` runs Reservoir; `manage.py help` lists the other commands."""

from reservoir_site.main import main

if __name__ == "__main__":
    main()
