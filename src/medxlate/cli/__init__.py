"""The command line: one thin module a command; only this room prints."""
