"""Prophet, the world model: history and actions in, the frames that follow out."""
