"""Sends objects to the hub, many in one commit of it."""

from kdcache.errors import CacheError
from kdcache.tools.hub_client import one_line_errors, open_api
from kdcache.tools.hub_storage import HubStorage

MOST_AT_ONCE = 200
MOST_BYTES_AT_ONCE = 256 * 2**20
"""Objects, and bytes of them, that go into one commit of the hub, which is not one of the cache."""


class Sender:
    """Gathers objects that are not there yet, and sends many of them in one commit."""

    def __init__(self, storage: HubStorage) -> None:
        self._storage = storage
        self._waiting: dict[str, bytes] = {}
        self.revision = storage.revision
        self.num_objects = 0
        self.num_bytes = 0

    def add(self, objects: dict[str, bytes], *, replaces: bool = False) -> None:
        """Gather objects that belong together and are sent in one commit, without those that are
        there already; send all that wait once they are many.

        Raises:
            CacheError: one is there with other bytes, or cannot be sent.
        """
        new = {}
        for key, data in objects.items():
            if self._storage.holds(key, data):
                continue
            if self._storage.exists(key) and not replaces:
                raise CacheError(
                    f"{self._storage}/{key} is there with other bytes, of another dump; push to"
                    " another place"
                )
            new[key] = data
        self._waiting |= new
        if len(self._waiting) >= MOST_AT_ONCE or self._waiting_bytes() >= MOST_BYTES_AT_ONCE:
            self.flush()

    def _waiting_bytes(self) -> int:
        return sum(map(len, self._waiting.values()))

    def flush(self) -> None:
        """Send what waits.

        Raises:
            CacheError: it cannot be sent.
        """
        if not self._waiting:
            return
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 # an extra

        additions = []
        for key, data in self._waiting.items():
            additions.append(CommitOperationAdd(path_in_repo=key, path_or_fileobj=data))
        message = f"kdcache: {len(additions)} objects"
        with one_line_errors(str(self._storage)):
            commit = open_api().create_commit(
                self._storage.repo, additions, commit_message=message, repo_type="dataset"
            )
        self.revision = str(commit.oid)
        self.num_objects += len(additions)
        self.num_bytes += self._waiting_bytes()
        self._waiting = {}
