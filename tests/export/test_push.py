"""Publishing, against a small Hub on this machine: what is there afterwards, and what a failure leaves."""

import hashlib

import pytest

from spatial_edit_reward.errors import UserError
from tests.export.hub import FIRST, TOKEN, Hub, Repository

REPO = "someone/judge"


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    # The weights go up as LFS objects: the other way needs the Hub's storage of chunks.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(merged_shards):
    (merged_shards / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# Judge\n")
    return merged_shards


@pytest.fixture
def push(hub, folder):
    from huggingface_hub import HfApi

    from export.push import merged_files, upload

    def run(revision="main", private=False, token=TOKEN):
        return upload(HfApi(hub.url, token=token), folder, merged_files(folder), REPO, revision, private)

    return run


def held(hub, branch="main"):
    files = dict(hub.repositories[REPO].branches[branch][1])
    files.pop(".gitattributes")
    return files


def local(folder):
    from export.push import merged_files

    return {name: (folder / name).read_bytes() for name in merged_files(folder)}


def test_everything_is_there_and_main_moved_once(hub, folder, push):
    commit = push(private=True)
    assert held(hub) == local(folder)
    assert hub.repositories[REPO].private
    assert list(hub.repositories[REPO].branches) == ["main"]
    assert hub.published["main"] == [[".gitattributes"], sorted([".gitattributes", *local(folder)])]
    assert hub.repositories[REPO].branches["main"][0] == commit


def test_a_second_push_replaces_what_changed_and_removes_what_is_gone(hub, folder, push):
    push()
    files = hub.repositories[REPO].branches["main"][1]
    files["model-00009-of-00009.safetensors"] = b"old"
    files["config.json"] = b"{}"
    push()
    assert held(hub) == local(folder)


def test_a_revision_of_its_own_leaves_main_alone(hub, folder, push):
    push(revision="v1")
    assert held(hub, "v1") == local(folder) and held(hub) == {}
    push(revision="v1")
    assert held(hub, "v1") == local(folder) and set(hub.repositories[REPO].branches) == {"main", "v1"}


def test_an_interrupted_upload_goes_on_and_main_stays_as_it_was(hub, folder, push):
    second = sorted(name for name in local(folder) if name.endswith(".safetensors"))[1]
    oid = hashlib.sha256((folder / second).read_bytes()).hexdigest()
    hub.fail["PUT", f"/objects/{oid}"] = 400
    with pytest.raises(UserError, match="the same command goes on"):
        push()
    assert held(hub) == {}
    uploaded = set(hub.objects)
    assert uploaded and oid not in uploaded
    hub.fail.clear()
    hub.log.clear()
    push()
    assert held(hub) == local(folder)
    assert not [line for line in hub.log if line.startswith("PUT") and line.split("/")[-1] in uploaded]


def test_several_commits_go_on_where_they_were_cut_off(hub, folder, push, monkeypatch):
    """The library's own way of many commits, three files in each; the third commit is refused."""
    import huggingface_hub._upload_pipeline as pipeline
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(pipeline, "COMMIT_SIZE_SCALE", [3] * 10)
    hub.lfs = False
    commits = 0
    commit = Hub.commit

    def third_fails(self, repository, branch, files):
        nonlocal commits
        commits += branch == "staging-main"
        if commits >= 4:  # the branch itself is the first
            self.fail["POST", "/commit/"] = 400
        return commit(self, repository, branch, files)

    monkeypatch.setattr(Hub, "commit", third_fails)
    with pytest.raises(UserError, match="the same command goes on"):
        push()
    assert held(hub) == {} and 3 <= len(held(hub, "staging-main")) < len(local(folder))
    monkeypatch.setattr(Hub, "commit", commit)
    hub.fail.clear()
    before = len(hub.published["staging-main"])
    push()
    assert held(hub) == local(folder)
    assert len(hub.published["staging-main"]) > before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.json", lambda content: content[:-1]),
        ("config.json", lambda content: content[:-1] + b" "),
        ("model-00001-of-00002.safetensors", lambda content: content[:-1]),
        ("model-00001-of-00002.safetensors", lambda content: content[:-1] + bytes([content[-1] ^ 1])),
    ],
)
def test_files_that_arrive_damaged_are_seen_before_main_moves(hub, folder, push, monkeypatch, name, damage):
    """Also where only the hash tells: of a file in git by its blob, of weights by their LFS object."""
    commit = Hub.commit

    def damage_one(self, repository, branch, files):
        return commit(self, repository, branch, {n: damage(c) if n == name else c for n, c in files.items()})

    monkeypatch.setattr(Hub, "commit", damage_one)
    with pytest.raises(UserError, match=f"not what was uploaded: {name}"):
        push()
    assert held(hub) == {}


def test_a_commit_of_someone_else_in_between_is_not_undone(hub, folder, push, monkeypatch):
    from huggingface_hub import HfApi

    push()
    refs = HfApi.list_repo_refs
    calls = 0

    def other_commit(self, repo):
        nonlocal calls
        heads = refs(self, repo)
        calls += 1
        if calls == 2:  # the head was read, the move comes next
            repository = hub.repositories[repo]
            hub.commit(repository, "main", {**repository.branches["main"][1], "theirs.txt": b"new"})
        return heads

    monkeypatch.setattr(HfApi, "list_repo_refs", other_commit)
    with pytest.raises(UserError, match="412"):
        push()
    assert held(hub)["theirs.txt"] == b"new"


def test_an_expired_token_is_one_line_without_the_token(hub, push):
    with pytest.raises(UserError, match="401: the token is missing, wrong or expired") as caught:
        push(token="hf_expiredexpiredexpired")
    assert "hf_expired" not in str(caught.value)
    assert not hub.repositories


def test_a_token_that_expires_on_the_way_leaves_main_alone(hub, push):
    hub.fail["POST", "/commit/"] = 401
    with pytest.raises(UserError, match="expired"):
        push()
    assert held(hub) == {}


def test_a_name_that_is_taken_is_refused(hub, push):
    hub.repositories[REPO] = Repository(False)
    hub.commit(hub.repositories[REPO], "main", {**FIRST, "pytorch_model.bin": b"another model"})
    with pytest.raises(UserError, match=r"name taken: it holds pytorch_model\.bin and no verdict\.json"):
        push()
    with pytest.raises(UserError, match="is there already, and public"):
        push(private=True)
    hub.fail["POST", "/branch/"] = 403  # someone else's repository
    hub.repositories[REPO].branches["main"] = ("0" * 40, dict(FIRST))
    with pytest.raises(UserError, match="403: the token may not write there, or the name belongs to someone else"):
        push()


def test_a_full_disk_on_the_hub_is_one_line(hub, push):
    hub.fail["PUT", "/objects/"] = 507
    with pytest.raises(UserError, match=r"no room left on the Hub"):
        push()
    assert held(hub) == {}


def test_no_hub_at_all_is_one_line(hub, push):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(UserError, match="the same command goes on"):
        push()
