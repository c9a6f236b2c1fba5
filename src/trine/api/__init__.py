"""The Python door: what `import trine` offers. It calls what the command line calls, with the same defaults."""
