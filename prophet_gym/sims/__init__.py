"""The waking world: LIBERO behind the interface of the dream, its scripted experts and its recorder."""
