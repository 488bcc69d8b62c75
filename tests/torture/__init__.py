"""Commands killed at random moments, again and again, until they end as if nothing had been.

    python -m tests.torture --kills 30 --seed 0 --out torture

Each command is run once undisturbed. Then it is started, killed with SIGKILL at a random moment and
started again with the same words, until it ends; its results must be the undisturbed ones', bit for
bit. Rounds are repeated until each command was killed as often as asked.
"""
