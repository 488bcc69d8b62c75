"""``python -m medxlate`` is the command ``medxlate``."""

from medxlate.cli.app import main

main()
