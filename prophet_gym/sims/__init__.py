"""The waking world: real LIBERO behind the interface of the dream, its scripted experts and its recorder."""
