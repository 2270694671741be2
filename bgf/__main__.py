"""`python -m bgf` is `bgf`."""

from bgf.runtime.main import main

main()
