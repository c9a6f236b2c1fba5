"""The one exception that is meant for people: it names the value, the place and what to do."""


class TrineError(Exception):
    """Wrong input or an unusable environment. The command line prints it plainly and leaves with 2."""


class QuietError(TrineError):
    """The same in a process of several where another one says it; leaves with 2 and prints nothing."""
