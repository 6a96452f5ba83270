"""Names of weights: what is understood, what is refused, and what is found on this machine."""

import json
from hashlib import sha256

import pytest
from huggingface_hub import constants

from prophet_gym._io.hub import MANIFEST, fetch, parse_hub_name, push_folder, resolve
from prophet_gym._io.hub._manifest import write_manifest
from prophet_gym._io.hub._names import HubName
from prophet_gym.errors import CheckpointError, MissingWeightsError

COMMIT = "a" * 40


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/repo", HubName("owner/repo")),
        ("owner/repo@v1.0", HubName("owner/repo", None, "v1.0")),
        ("o-w.n_er/Re-po.2:file.pt", HubName("o-w.n_er/Re-po.2", "file.pt")),
        ("owner/repo:deep/er/file.pt@refs/pr/3", HubName("owner/repo", "deep/er/file.pt", "refs/pr/3")),
    ],
)
def test_names_are_read_and_written_alike(text, name):
    assert parse_hub_name(text) == name
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    ["", "owner", "/", "owner/", "/repo", "a/b/c", "owner/repo:", "owner/repo@", "owner/repo:@v1", "owner/repo:f@",
     "owner/repo:a:b", "owner/repo@v1@v2", "owner/repo@v1:file.pt", "owner/repo:../secret", "owner/repo:a/../../b",
     "owner/repo:/etc/passwd", "owner/repo:a//b", "owner/repo:a\\b", "owner/..", "../repo", "-owner/repo",
     "own er/repo", "owner/repo:fi le.pt", "owner/repo@a..b", "owner/repo@-x", "owner/re\npo", "https://huggingface.co/owner/repo",
     "öwner/repo", "owner/" + "r" * 97, "owner/repo\n"],
)  # fmt: skip
def test_malformed_names_are_refused(text):
    with pytest.raises(MissingWeightsError, match=r"must be 'owner/repo', 'owner/repo:file\.pt' or either with"):
        parse_hub_name(text)


@pytest.fixture
def offline_cache(tmp_path, monkeypatch):
    """The Hub's cache as it would be after fetching owner/repo, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--owner--repo"
    snapshot = repo / "snapshots" / COMMIT
    (snapshot / "deep").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    (snapshot / "prophet.json").write_text("{}")
    (snapshot / "deep" / "weights.pt").write_bytes(b"weights")
    return snapshot


def test_a_fetched_repository_is_found_without_a_network(offline_cache):
    assert resolve("owner/repo", {}).samefile(offline_cache)
    assert resolve(f"owner/repo@{COMMIT}", {}).samefile(offline_cache)
    assert resolve("owner/repo:deep/weights.pt@main", {}).read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("owner/other", "Hub repository owner/other at its newest revision"),
        ("owner/repo@v9", "at revision v9"),
        ("owner/repo:none.pt@main", "the file none.pt of the Hub repository owner/repo at revision main"),
    ],
)
def test_offline_it_says_what_was_looked_for_and_what_works(offline_cache, name, said):
    with pytest.raises(MissingWeightsError, match=r"weights='bundled' works without a network") as error:
        resolve(name, {})
    assert said in str(error.value)


def test_pushing_offline_says_so(offline_cache, tmp_path):
    (tmp_path / "prophet").mkdir()
    with pytest.raises(MissingWeightsError, match="cannot write to the Hub repository owner/repo"):
        push_folder(tmp_path / "prophet", "owner/repo")
    with pytest.raises(MissingWeightsError, match="must be 'owner/repo'"):
        push_folder(tmp_path / "prophet", "owner/repo@v1")


@pytest.mark.parametrize("name", ["owner/repo", "owner/repo:deep/weights.pt"])
def test_fetched_files_must_be_those_of_the_manifest(offline_cache, name):
    write_manifest(offline_cache)
    resolve(name, {})
    (offline_cache / "deep" / "weights.pt").write_bytes(b"Weights")
    with pytest.raises(CheckpointError, match=r"deep/weights\.pt has another sha-256"):
        resolve(name, {})


def test_bundled_names_and_paths_come_before_the_hub(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "file.pt").write_bytes(b"")
    assert resolve("bundled", {"bundled": tmp_path / "one"}) == tmp_path / "one"
    assert resolve(str(tmp_path / "one"), {}) == tmp_path / "one"
    assert resolve(str(tmp_path / "file.pt"), {}) == tmp_path / "file.pt"


@pytest.mark.parametrize("name", ["bundeld", "./here", "/no/where", "~/nowhere", "a/b/c"])
def test_what_is_neither_path_nor_hub_name_lists_the_forms(tmp_path, name):
    with pytest.raises(MissingWeightsError, match=r"one of \['bundled'\].*'owner/repo'.*found no folder"):
        resolve(name, {"bundled": tmp_path})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a").write_bytes(b"0"), "a has another sha-256"),
        (lambda folder: (folder / "a").write_bytes(b"other"), "a has 5 bytes in place of 1"),
        (lambda folder: (folder / "b" / "c").unlink(), "b/c is missing"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "damaged"),
        (lambda folder: (folder / MANIFEST).write_text("[1]"), "must be a JSON object"),
        (lambda folder: (folder / MANIFEST).write_text('{"a": 1}'), "must map file names"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 9, "files": {}}'), "is of format 9.* update"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": 1, "files": {"a": {}}}'), "must map file names"),
    ],
)
def test_local_folders_are_checked_too(tmp_path, damage, message):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b" / "c").write_bytes(b"2")
    write_manifest(tmp_path)
    assert set(json.loads((tmp_path / MANIFEST).read_text())["files"]) == {"a", "b/c"}
    resolve(str(tmp_path), {})
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        resolve(str(tmp_path), {})


def test_manifests_of_earlier_versions_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / MANIFEST).write_text(json.dumps({"a": sha256(b"1").hexdigest().upper()}))
    resolve(str(tmp_path), {})
    (tmp_path / "a").write_bytes(b"2")
    with pytest.raises(CheckpointError, match="a has another sha-256"):
        resolve(str(tmp_path), {})


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a//b", "a\\b", "", ".", "C:/x"])
def test_a_manifest_names_files_of_its_own_folder(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "x").write_bytes(b"1")
    (tmp_path / "folder" / MANIFEST).write_text(json.dumps({name: "0" * 64}))
    with pytest.raises(CheckpointError, match=r"manifest\.json must name files of its own folder"):
        resolve(str(tmp_path / "folder"), {})


def test_long_names_of_a_manifest_are_cut(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps({f"{n}" + "x" * 10_000: "0" * 64 for n in range(50)}))
    with pytest.raises(CheckpointError, match="and 40 more") as error:
        resolve(str(tmp_path), {})
    assert len(str(error.value)) < 2500
    (tmp_path / MANIFEST).write_text(json.dumps({f"{n}" + "x" * 200: "0" * 64 for n in range(50)}))
    with pytest.raises(CheckpointError, match=r"is missing.* and 40 more") as error:
        resolve(str(tmp_path), {})
    assert len(str(error.value)) < 2500


def test_locks_and_drafts_are_no_part_of_a_checkpoint(tmp_path):
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "weights").write_bytes(b"1")
    (tmp_path / "head" / ".run.lock").touch()
    (tmp_path / ".weights.draft-host.1.abc").touch()
    write_manifest(tmp_path)
    assert set(json.loads((tmp_path / MANIFEST).read_text())["files"]) == {"head/weights"}


def test_a_part_of_a_repository_is_checked_as_far_as_it_is_there(offline_cache):
    write_manifest(offline_cache)
    (offline_cache / "prophet.json").unlink()
    assert fetch(HubName("owner/repo"), only=["deep/*"]).samefile(offline_cache)
    (offline_cache / "deep" / "weights.pt").write_bytes(b"Weights")
    with pytest.raises(CheckpointError, match="another sha-256"):
        fetch(HubName("owner/repo"), only=["deep/*"])
