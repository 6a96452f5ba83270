"""Ask whether reinforcement learning mends unplanted failures where the world is perfect: in the simulator itself."""
