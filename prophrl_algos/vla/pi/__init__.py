"""Pi0 and Pi0.5 as flow policies."""
