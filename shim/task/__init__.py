"""Tasks and their processes, pods, and everything that one owner process keeps of them."""
