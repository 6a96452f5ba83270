"""Reinforce a cloned policy in the dream alone, and evaluate it in LIBERO."""
