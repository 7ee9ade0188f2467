"""The command line: thin wrappers around the Python functions of commands/, runs/ and sweeps/."""
