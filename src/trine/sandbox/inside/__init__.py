"""What runs in the sandbox's processes: of Trine it imports `runtime.child_process` alone, and no installed package."""
