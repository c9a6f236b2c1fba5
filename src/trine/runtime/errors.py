"""The exception whose message is written for the user: it names the value, the place and what to do."""


class TrineError(Exception):
    """Wrong input or an unusable environment. The command line prints the message and exits with status 2."""


class QuietError(TrineError):
    """Raised in a distributed run where another process reports the error: exits with status 2, prints nothing."""
