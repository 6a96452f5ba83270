"""Several processes that train one model together, as `accelerate launch` or torchrun started them."""

from prophet_gym._io.processes._together import (
    by_main,
    gathered,
    is_main,
    joined,
    lost_named,
    package_versions,
    require_alike,
)

__all__ = ["by_main", "gathered", "is_main", "joined", "lost_named", "package_versions", "require_alike"]
