"""Real simulators behind one protocol, with the interface of a dream: LIBERO, and whatever registers beside it."""
