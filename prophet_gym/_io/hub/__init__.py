"""The Hub: names of repositories, fetching and writing them, and the manifest by which their files are checked."""

from prophet_gym._io.hub._card import About, Measure, keep_card, write_card
from prophet_gym._io.hub._fetch import fetch, fetch_data_set, resolve
from prophet_gym._io.hub._manifest import MANIFEST, POLICY, WORLD_MODEL
from prophet_gym._io.hub._names import (
    PUBLISHED,
    PUBLISHED_FILES,
    WAN_VAE,
    WAN_VAE_FILES,
    parse_hub_name,
    published_file,
)
from prophet_gym._io.hub._push import offered, push_files, push_folder, require_repo, sent, without_places

__all__ = [
    "MANIFEST",
    "POLICY",
    "PUBLISHED",
    "PUBLISHED_FILES",
    "WAN_VAE",
    "WAN_VAE_FILES",
    "WORLD_MODEL",
    "About",
    "Measure",
    "fetch",
    "fetch_data_set",
    "keep_card",
    "offered",
    "parse_hub_name",
    "published_file",
    "push_files",
    "push_folder",
    "require_repo",
    "resolve",
    "sent",
    "without_places",
    "write_card",
]
