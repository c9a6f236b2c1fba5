"""What runs in the sandbox's processes. Imports the standard library only, and nothing else of Trine."""
