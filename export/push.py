"""Publishing on the Hub: files go to a staging branch, are read back, and the published revision moves in one commit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx
from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from spatial_edit_reward.errors import UserError
from spatial_edit_reward.spec import FILE_NAME as SPEC

# The Hub's own file, there from the start.
HUBS_OWN = ".gitattributes"
MEANING = {
    401: "the token is missing, wrong or expired: 'hf auth login', or set HF_TOKEN",
    403: "the token may not write there, or the name belongs to someone else",
    404: "no such repository, or the token may not see it",
    413: "no room left on the Hub for this account",
    507: "no room left on the Hub for this account",
}


def meaning(error: BaseException) -> str:
    """The error in a line: what the Hub's status means where it answered, also when the library wrapped that."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"the Hub answered {status}: {MEANING.get(status) or error.server_message or 'no reason given'}"
    if isinstance(error.__cause__, HfHubHTTPError):
        return meaning(error.__cause__)
    return " ".join(str(error).split()) or type(error).__name__


def check_remote(api: HfApi, folder: Path, names: list[str], repo: str, revision: str) -> None:
    """Raises UserError where the files at `revision` are not those of `folder`, by name, size and hash."""
    tree = api.list_repo_tree(repo, recursive=True, revision=revision)
    there = {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path != HUBS_OWN}
    odd = set(there) ^ set(names)
    for name in set(names) - odd:
        found, content = there[name], folder / name
        if found.lfs:
            with content.open("rb") as opened:
                same = found.lfs.sha256 == hashlib.file_digest(opened, "sha256").hexdigest()
        else:
            same = found.blob_id == git_hash(content.read_bytes())
        if not same or found.size != content.stat().st_size:
            odd.add(name)
    if odd:
        raise UserError(
            f"{repo} @ {revision}: not what was uploaded: {', '.join(sorted(odd)[:3])}; run the same command again"
        )


def move(api: HfApi, repo: str, staging: str, revision: str, names: list[str]) -> str:
    """Makes `revision` hold exactly the files of the branch `staging`, in one commit; returns its id."""
    message = "Publish a verified export"
    heads = {branch.name: branch.target_commit for branch in api.list_repo_refs(repo).branches}
    if revision not in heads:
        api.create_branch(repo, branch=revision, revision=staging)
        return heads[staging]
    old = {name for name in api.list_repo_files(repo, revision=revision) if name != HUBS_OWN}
    operations: list[CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationCopy(src_path_in_repo=name, path_in_repo=name, src_revision=staging) for name in names
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(old - set(names))]
    # The head that was looked at: a commit of someone else in between is refused, not undone.
    return api.create_commit(
        repo, operations, commit_message=message, revision=revision, parent_commit=heads[revision]
    ).oid


def upload(api: HfApi, folder: Path, names: list[str], repo: str, revision: str, private: bool) -> str:
    """Publishes the files `names` of `folder`; returns the commit's id. The same call goes on with an interrupted one.

    Until every file is on the staging branch and was read back, `revision` stays as it was. Raises UserError where the name
    is taken by something else, the token is not accepted, or the upload is cut off.
    """
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if bool(api.repo_info(repo).private) != private:
            raise UserError(
                f"{repo}: is there already, and {'public' if private else 'private'}: name taken, or set PRIVATE"
            )
        heads = {branch.name for branch in api.list_repo_refs(repo).branches}
        if revision in heads:
            held = {name for name in api.list_repo_files(repo, revision=revision) if name != HUBS_OWN}
            if held and SPEC not in held:
                raise UserError(
                    f"{repo} @ {revision}: name taken: it holds {min(held)} and no {SPEC}, so no export of this"
                )
        staging = f"staging-{revision}"
        api.create_branch(repo, branch=staging, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            revision=staging,
            allow_patterns=names,
            delete_patterns="*",
            commit_message="Upload a verified export",
        )
        check_remote(api, folder, names, repo, staging)
        commit = move(api, repo, staging, revision, names)
        check_remote(api, folder, names, repo, revision)
        api.delete_branch(repo, branch=staging)
    except (httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{repo}: {meaning(error)}; the same command goes on from what is there") from None
    return commit
