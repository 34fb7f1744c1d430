"""The command line: `main` parses, each command has a file of its own."""
