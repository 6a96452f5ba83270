"""How fast `prophet play` is, and a film of it."""
