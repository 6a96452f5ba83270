"""The Hub: names of repositories, fetching and writing them, and the manifest by which their files are checked."""

from prophet_gym._io.hub._card import About, Measure, keep_card, write_card
from prophet_gym._io.hub._fetch import fetch, fetch_data_set, resolve
from prophet_gym._io.hub._manifest import (
    MANIFEST,
    POLICY,
    WORLD_MODEL,
    manifest,
    names_in,
    read_manifest,
    verified,
    write_manifest,
)
from prophet_gym._io.hub._names import (
    PUBLISHED,
    PUBLISHED_FILES,
    WAN_VAE,
    WAN_VAE_FILES,
    HubName,
    parse_hub_name,
    published_file,
)
from prophet_gym._io.hub._push import Pushed, offered, push_files, push_folder, require_repo, sent, without_places

__all__ = [
    "MANIFEST",
    "POLICY",
    "PUBLISHED",
    "PUBLISHED_FILES",
    "WAN_VAE",
    "WAN_VAE_FILES",
    "WORLD_MODEL",
    "About",
    "HubName",
    "Measure",
    "Pushed",
    "fetch",
    "fetch_data_set",
    "keep_card",
    "manifest",
    "names_in",
    "offered",
    "parse_hub_name",
    "published_file",
    "push_files",
    "push_folder",
    "read_manifest",
    "require_repo",
    "resolve",
    "sent",
    "verified",
    "without_places",
    "write_card",
    "write_manifest",
]
