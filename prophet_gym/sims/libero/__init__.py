"""LIBERO in MuJoCo behind the `Simulator` protocol: its installation, looks, scripted experts and assets."""
