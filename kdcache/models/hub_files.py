"""The files of a model in a repository of the Hugging Face hub: its configuration, what says how
images are prepared, and its weights. Nothing else of it is downloaded, and no code.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdcache.config.spec import Spec, Value
from kdcache.errors import KdcacheError, ModelError, quoted
from kdcache.runtime.downloads import asking_hub
from kdcache.runtime.user_code import exception_text

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In one file; in several, the index of these has `.index.json` at its end."""


def downloaded(spec: Spec, revision: Value | None) -> Path:
    """Return the folder of the hub's local cache with the configuration of a repository; what is
    not there is downloaded.

    Raises:
        ModelError: there is no such repository or revision, or it cannot be reached.
    """
    name = spec.arg or ""
    with _hub_errors(spec):
        if revision is not None:
            revision = str(revision)
        config = _hub_file(name, CONFIG, revision)
        if config is None:
            way_out = "it is no model of transformers; look at its page"
            raise ModelError(f"model {spec}: repository {name} has no {CONFIG}: {way_out}")
        commit = config.parent.name  # so that all files are of one commit
        for file in PROCESSORS:
            _hub_file(name, file, commit)
    return config.parent


def download_weights(spec: Spec, commit: str) -> None:
    """Put the weights of a repository into the hub's local cache, beside its configuration:
    safetensors if it has them, in one file or several.

    Raises:
        ModelError: it cannot be reached.
    """
    name = spec.arg or ""
    with _hub_errors(spec):
        for file in WEIGHTS:
            if _hub_file(name, file, commit) is not None:
                return
            index = _hub_file(name, f"{file}.index.json", commit)
            if index is not None:
                files_by_tensor = json.loads(index.read_bytes())["weight_map"]
                for part in sorted(set(files_by_tensor.values())):
                    _hub_file(name, str(part), commit)
                return


def _hub_file(name: str, file: str, revision: str | None) -> Path | None:
    """Return where a file of a repository lies in the hub's local cache; None if the repository
    does not have it."""
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    try:
        return Path(huggingface_hub.hf_hub_download(name, file, revision=revision))
    except errors.LocalEntryNotFoundError:
        if file in PROCESSORS:  # without a network: mean and std can be given
            return None
        raise
    except errors.EntryNotFoundError:
        return None


@contextmanager
def _hub_errors(spec: Spec) -> Iterator[None]:
    """Run the block, which asks the hub; what its client raises becomes one line."""
    from huggingface_hub import errors  # noqa: PLC0415

    name = spec.arg or ""
    try:
        with asking_hub():
            yield
    except (KdcacheError, MemoryError):
        raise
    except errors.GatedRepoError as error:
        way_out = "accept its terms on its page, then log in with: hf auth login"
        raise ModelError(
            f"model {spec}: repository {name} of the hub is gated; {way_out}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        way_out = "check its name; if it is private, log in with: hf auth login"
        raise ModelError(f"model {spec}: the hub has no repository {name}; {way_out}") from error
    except errors.RevisionNotFoundError as error:
        revision = quoted(spec.options.get("revision", "main"))
        way_out = "give a branch, a tag or a commit of it"
        raise ModelError(
            f"model {spec}: repository {name} of the hub has no revision {revision}; {way_out}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        way_out = f"check the network, or give a folder with {CONFIG} and weights"
        raise ModelError(
            f"model {spec}: repository {name} of the hub cannot be reached, and is not in the hub's"
            f" local cache; {way_out}"
        ) from error
    except Exception as error:  # of the hub's client, and of what it uses
        way_out = "check its name and the network, or give a folder"
        raise ModelError(
            f"model {spec}: repository {name} of the hub cannot be read: {exception_text(error)};"
            f" {way_out}"
        ) from error
