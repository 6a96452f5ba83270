"""Learn to reach a marked place in the dream with PPO, and score it in LIBERO."""
