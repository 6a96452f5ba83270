"""Shapes and types of both packages are checked while tests run."""

from jaxtyping import install_import_hook

install_import_hook(["prophet_gym", "prophrl_algos"], "beartype.beartype")
