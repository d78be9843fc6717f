"""Upload an exported folder to the Hugging Face hub: in one commit, or not at all."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as ClientError  # type: ignore[attr-defined]
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import disable_progress_bars

from parambudget._version import __version__
from parambudget.errors import InputError
from parambudget.training.exports.model_card import CARD, is_own_card, kept_note
from parambudget.units import count_phrase

_MESSAGE: Final = f"Upload a model exported by parambudget {__version__}"
_OWN_FILES: Final = {".gitattributes"}
"""Files of an empty repository."""


@dataclass(frozen=True)
class HubUpload:
    """A repository that may be written to."""

    api: HfApi
    repo: str
    """With its owner."""
    files: frozenset[str] | None
    """What is in it; None for one that does not exist yet."""
    commit: str | None = None
    """Its newest commit; None for one that does not exist yet."""

    @property
    def url(self) -> str:
        """Where it is looked at."""
        return f"{self.api.endpoint}/{self.repo}"

    def upload(self, folder: Path, names: Iterable[str]) -> list[str]:
        """Upload these files of a folder in one commit; returns notes. A new repository is private."""
        with _one_line_errors(f"{folder} was written, but not uploaded to {self.repo}"):
            if self.files is None:
                self.api.create_repo(self.repo, private=True)
            keeps_card = self._has_card_of_a_person()
            operations = [
                CommitOperationAdd(name, folder / name)
                for name in sorted(names)
                if not (keeps_card and name == CARD)
            ]
            self.api.create_commit(self.repo, operations, commit_message=_MESSAGE, parent_commit=self.commit)
        return [kept_note(f"{CARD} of {self.repo}")] if keeps_card else []

    def _has_card_of_a_person(self) -> bool:
        if CARD not in (self.files or ()):
            return False
        with TemporaryDirectory() as folder:  # not the cache of downloads, which would keep it
            card = Path(self.api.hf_hub_download(self.repo, CARD, local_dir=folder))
            return not is_own_card(card.read_text(encoding="utf-8", errors="replace"))


def prepare_upload(repo: str, *, replace: bool) -> HubUpload:
    """Check what can be checked before anything is written: the token, the name, and that the repository is
    new, empty, or may be changed."""
    disable_progress_bars()
    logging.set_verbosity_error()  # it would report every attempt to connect
    api = HfApi(library_name="parambudget", library_version=__version__)
    with _one_line_errors(f"cannot upload to {repo}"):
        user = str(api.whoami()["name"])
        whole = repo if "/" in repo else f"{user}/{repo}"
        try:
            info = api.model_info(whole)
        except RepositoryNotFoundError:
            return HubUpload(api, whole, files=None)
    files = frozenset(file.rfilename for file in info.siblings or [])
    if files - _OWN_FILES and not replace:
        raise InputError(
            f"the repository {whole} exists and has {count_phrase(len(files), 'file')}; choose another name "
            "with `push`, or change it with `force`"
        )
    return HubUpload(api, whole, files, info.sha)


@contextmanager
def _one_line_errors(what: str) -> Iterator[None]:
    """What the hub or the network refuses, as one line."""
    try:
        yield
    except LocalTokenNotFoundError:
        raise InputError(
            f"{what}: no token of the hub was found; run: hf auth login, or set HF_TOKEN"
        ) from None
    except HFValidationError as error:
        raise InputError(f"{what}: {_first_line(error)}; give OWNER/NAME") from None
    except HfHubHTTPError as error:
        raise InputError(f"{what}: {_explain(error)}") from None
    except InputError:
        raise
    except Exception as error:  # of the HTTP library, which depends on the hub's version, or the disk
        reason = _first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        hint = "is there a network?" if _is_of_the_network(error) else "try again"
        raise InputError(f"{what}: {reason}; {hint}") from None


def _explain(error: HfHubHTTPError) -> str:
    status = None if error.response is None else error.response.status_code
    if status == 401:
        return "the hub does not know this token; run: hf auth login, or set HF_TOKEN to another one"
    if status == 412:
        return "the repository has changed since it was checked; look at it, and export again"
    if status == 403:
        return "this token may not write there; use one with write access, or another OWNER/NAME"
    return f"the hub answers {status}: {_first_line(error)}; try again later"


def _is_of_the_network(error: BaseException) -> bool:
    """Whether the hub was not reached, or did not answer; errors of the HTTP client are of httpx or httpx2,
    by the version of the hub's package."""
    causes = (error, error.__cause__, error.__context__)
    return any(
        isinstance(one, ConnectionError | TimeoutError | ClientError) and not isinstance(one, HfHubHTTPError)
        for one in causes
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
