"""Publishing on the Hub: files go to a staging branch, are read back, and the published revision moves in one commit.

Published is the merged model, or the adapters of both stages.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import httpx
from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from export.card import FinishedRun
from export.checkpoint import files_beside, weight_files
from spatial_edit_reward.errors import UserError, one_line
from spatial_edit_reward.spec import FILE_NAME as SPEC

# Files of the merged folder that are published beside the checkpoint's.
ABOUT = ("README.md", "curves.png", "export_report.json")
TEMPLATE = Path(__file__).with_name("adapters.md.j2")
# The Hub's own file, there from the start.
HUBS_OWN = ".gitattributes"
MEANING = {
    401: "the token is missing, wrong or expired: 'hf auth login', or set HF_TOKEN",
    403: "the token may not write there, or the name belongs to someone else",
    404: "no such repository, or the token may not see it",
    413: "no room left on the Hub for this account",
    507: "no room left on the Hub for this account",
}


def merged_files(folder: Path) -> list[str]:
    """Names of the files of a merged checkpoint that are published, weights first."""
    return [*weight_files(folder), *files_beside(folder), *(name for name in ABOUT if (folder / name).exists())]


def gather_adapters(run: FinishedRun, folder: Path, repo: str) -> list[str]:
    """Copies both stages' adapters into `folder`, with the spec and a card that shows their use; returns the files' names."""
    names = ["README.md", SPEC]
    base = run.base_on_hub or Path(run.base).as_posix()
    shutil.copyfile(run.folder / "merge" / SPEC, folder / SPEC)
    for adapter in run.adapters:
        stage = adapter.parent.name
        (folder / stage).mkdir()
        shutil.copyfile(adapter / "adapter_model.safetensors", folder / stage / "adapter_model.safetensors")
        config = json.loads((adapter / "adapter_config.json").read_bytes())
        config["base_model_name_or_path"] = base  # stage 2's names a folder of the training machine
        (folder / stage / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        names += [f"{stage}/adapter_config.json", f"{stage}/adapter_model.safetensors"]
    card = ModelCard.from_template(
        ModelCardData(library_name="peft", base_model=run.base_on_hub, tags=["lora", "reward-model", "image-editing"]),
        template_path=str(TEMPLATE),
        repo=repo,
        name=repo.split("/")[-1],
        base=base,
        stages=[adapter.parent.name for adapter in run.adapters],
    )
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    return names


def print_contents(folder: Path, names: list[str], repo: str, revision: str, private: bool) -> None:
    """Prints what would be published: files, sizes, the card."""
    sizes = {name: (folder / name).stat().st_size for name in names}
    print(f"{repo} @ {revision} ({'private' if private else 'public'}):")
    for name, size in {**sizes, "in all": sum(sizes.values())}.items():
        print(f"{size:>18,} bytes  {name}")
    print((folder / "README.md").read_text(encoding="utf-8"))


def explain(error: BaseException) -> str:
    """The error in a line: what the Hub's status means where it answered, also when the library wrapped that."""
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"the Hub answered {status}: {MEANING.get(status) or error.server_message or 'no reason given'}"
    if isinstance(error.__cause__, HfHubHTTPError):
        return explain(error.__cause__)
    return one_line(error) or type(error).__name__


def check_remote(api: HfApi, folder: Path, names: list[str], repo: str, revision: str) -> None:
    """Raises UserError where the files at `revision` are not those of `folder`, by name, size and hash."""
    tree = api.list_repo_tree(repo, recursive=True, revision=revision)
    remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile) and entry.path != HUBS_OWN}
    wrong = set(remote) ^ set(names)
    for name in set(names) - wrong:
        entry, local = remote[name], folder / name
        if entry.lfs:
            with local.open("rb") as opened:
                same = entry.lfs.sha256 == hashlib.file_digest(opened, "sha256").hexdigest()
        else:
            same = entry.blob_id == git_hash(local.read_bytes())
        if not same or entry.size != local.stat().st_size:
            wrong.add(name)
    if wrong:
        raise UserError(
            f"{repo} @ {revision}: not what was uploaded: {', '.join(sorted(wrong)[:3])}; run the same command again"
        )


def published_files(api: HfApi, repo: str, revision: str) -> set[str]:
    """Names of the files at `revision`, without the Hub's own."""
    return set(api.list_repo_files(repo, revision=revision)) - {HUBS_OWN}


def move(api: HfApi, repo: str, staging: str, revision: str, names: list[str]) -> str:
    """Makes `revision` hold exactly the files of the branch `staging`, in one commit; returns its id."""
    message = "Publish a verified export"
    heads = {branch.name: branch.target_commit for branch in api.list_repo_refs(repo).branches}
    if revision not in heads:
        api.create_branch(repo, branch=revision, revision=staging)
        return heads[staging]
    old = published_files(api, repo, revision)
    operations: list[CommitOperationCopy | CommitOperationDelete] = [
        CommitOperationCopy(src_path_in_repo=name, path_in_repo=name, src_revision=staging) for name in names
    ]
    operations += [CommitOperationDelete(path_in_repo=name) for name in sorted(old - set(names))]
    # The head that was read: a commit of someone else in between is refused, not undone.
    return api.create_commit(
        repo, operations, commit_message=message, revision=revision, parent_commit=heads[revision]
    ).oid


def upload(api: HfApi, folder: Path, names: list[str], repo: str, revision: str, private: bool) -> str:
    """Publishes the files `names` of `folder`; returns the commit's id. The same call continues an interrupted one.

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
            old = published_files(api, repo, revision)
            if old and SPEC not in old:
                raise UserError(
                    f"{repo} @ {revision}: name taken: it holds {min(old)} and no {SPEC}, so no export of this project"
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
        raise UserError(f"{repo}: {explain(error)}; the same command goes on from what is there") from None
    return commit
