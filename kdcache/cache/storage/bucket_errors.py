"""What obstore takes from the environment, and what its errors say.

An error has a class and a text, but no fields: status, code and address are read from the text.
"""

import os
import re
from urllib.parse import urlsplit

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from kdcache.errors import UsageError

_PREFIXES = {"s3": "AWS_", "gs": "GOOGLE_", "az": "AZURE_"}
"""Of variables, by the scheme of a bucket's address."""
_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "GOOGLE_BASE_URL",
    "AZURE_STORAGE_ENDPOINT",
    "AZURE_ENDPOINT",
)
"""Variables that name an endpoint; of those of one cloud the first counts."""
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_CREDENTIAL_SERVICES = (
    "/latest/api/token",
    "/latest/meta-data/",
    "/computeMetadata/",
    "/metadata/identity/",
)
"""Paths at which obstore asks a machine of the cloud for credentials, if there are none else."""
_TO_BE_TRIED_AGAIN = (404, 408, 409, 412, 425, 429)
"""Answers that are no mistakes of the client: two writers, too many requests, a late body."""
_USUAL = (
    "see that the bucket exists and that the credentials may use it, and run the same command again"
)
_LATER = "the store is out of order or overloaded; run the same command again later"
_KEYS = "see AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_REGION = "set AWS_REGION to the region of the bucket"
_RIGHTS = (
    "the credentials need the rights to get, put and list objects there (s3:GetObject,"
    " s3:PutObject, s3:ListBucket)"
)
_WAYS_OUT = {
    "AccessDenied": _RIGHTS,
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
    "ExpiredToken": "get new credentials, and run the same command again",
    "RequestTimeTooSkewed": "set the clock of this machine, and run the same command again",
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "NotImplemented": "a cache needs a store that knows conditional writes (If-None-Match: *)",
}
_CREDENTIALS = {
    "s3": (
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a bucket that"
        " is open to all"
    ),
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


def check_environment(scheme: str) -> None:
    """Check the variables that obstore reads: with some mistakes in them it would panic.

    Args:
        scheme: of a bucket's address.

    Raises:
        UsageError: an endpoint that is no address; a value with blanks around it, or a line break.
    """
    prefix = _PREFIXES[scheme]
    for name, value in os.environ.items():
        if not name.startswith(prefix):
            continue
        if value != value.strip() or not value.isprintable():
            raise UsageError(
                f"the variable {name} holds a line break, or a blank at one of its ends; set it"
                " without"
            )
        if name in _ENDPOINTS and not _is_address(value):
            address = value.rpartition("@")[2][:60]  # without a password
            raise UsageError(
                f"the variable {name} is {address!r}, which is no address; set it to"
                " http://HOST:PORT or https://HOST, or unset it"
            )


def _is_address(text: str) -> bool:
    parts = urlsplit(text)
    try:
        has_port = parts.port is None or parts.port > 0
    except ValueError:  # no number, or one that is too large
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and has_port


def is_plain_http() -> bool:
    """Return whether the environment names an endpoint without TLS, which is then meant."""
    return _first_endpoint("http://") is not None


def endpoint_from_environment() -> str:
    """Return all that the environment says of endpoints."""
    return " ".join(os.environ.get(name, "") for name in _ENDPOINTS)


def _first_endpoint(start: str) -> str | None:
    """Return the first variable that names an endpoint which begins so; None if none does."""
    for name in _ENDPOINTS:
        if os.environ.get(name, "").startswith(start):
            return name
    return None


def status_of(error: Exception) -> int | None:
    """Return the status of the answer; None where there was no answer that obstore could use."""
    status = _first_group(r"status code: ([0-9]{3})", error)
    if not status:
        return None
    return int(status)


def code_of(error: Exception) -> str:
    """Return the code in the body of the answer, such as `AccessDenied`; empty if it has none."""
    return _first_group(r"<Code>(\w+)</Code>", error)


def _first_group(pattern: str, error: Exception) -> str:
    """Return what the group of a pattern matches in the text of an error; empty if nothing."""
    match = re.search(pattern, str(error))
    if match is None:
        return ""
    return match[1]


def is_of_no_bucket(error: Exception) -> bool:
    """Return whether the answer says that there is no such bucket."""
    return code_of(error) in _NO_BUCKET


def is_final(error: Exception) -> bool:
    """Return whether another try would change nothing."""
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or is_of_no_bucket(error):
        return True
    if "redirect without LOCATION" in str(error):  # of a bucket in another region
        return True
    if code_of(error) == "RequestTimeout":  # S3 has waited for the body of a put
        return False
    status = status_of(error)
    if status is None:
        return False
    is_mistake = 400 <= status < 500 and status not in _TO_BE_TRIED_AGAIN
    return is_mistake or status == 501


def is_unreachable(error: Exception) -> bool:
    """Return whether no connection was made."""
    return bool(re.search(r"HttpError \{\s*kind: Connect|Connect,\s*TimedOut", str(error)))


def is_timeout(error: Exception) -> bool:
    """Return whether a connection was made, and no answer came in time."""
    return "TimedOut" in str(error) and not is_unreachable(error)


def is_about_credentials(error: Exception) -> bool:
    """Return whether a service that gives credentials was asked, and gave none."""
    url = _url(error)
    return any(path in url for path in _CREDENTIAL_SERVICES)


def reason_of(error: Exception) -> str:
    """Return what went wrong, in a few words."""
    text = str(error)
    body = re.search(r"<Code>(.*?)</Code>\s*<Message>(.*?)</Message>", text, re.DOTALL)
    if body is not None:
        return _shortened(f"{body[1]}: {body[2]}")
    if is_about_credentials(error):
        return f"the environment holds no credentials, and {_address(error)} gives none"
    if is_unreachable(error):
        return _shortened(f"{_endpoint(error)} cannot be reached: {_transport_reason(text)}")
    return _shortened(_answer_reason(error))


def _answer_reason(error: Exception) -> str:
    """Return what is wrong with an answer, or with its absence."""
    text = str(error)
    if "IncompleteMessage" in text:
        return "the connection was closed before the answer"
    status_line = re.search(r"status code: (.*)", text)
    if status_line is not None:
        return f"the answer is {status_line[1].strip(' :')}"
    if is_timeout(error):
        return "no answer in time"
    first_part, _, _ = text.partition("\n\n")
    return re.sub(r"^Generic \w+ error: |Error performing .* in [^ ]* - ", "", first_part)


def way_out_of(error: Exception, scheme: str) -> str:
    """Return what the user can do.

    Args:
        error: what went wrong.
        scheme: of the bucket's address: `s3`, `gs` or `az`.
    """
    if is_about_credentials(error):
        return f"set {_CREDENTIALS[scheme]}"
    if is_unreachable(error):
        return "see that it is right and that it is up, and run the same command again"
    if "redirect without LOCATION" in str(error):
        return _REGION
    code = code_of(error)
    if code in _WAYS_OUT:
        return _WAYS_OUT[code]
    status = status_of(error)
    if is_timeout(error) or (status is not None and status >= 500):
        return _LATER
    return _USUAL


def _endpoint(error: Exception) -> str:
    """Return the address that was tried, and where it comes from."""
    address = _address(error)
    text = f"endpoint {address}"
    variable = _first_endpoint(address)
    if variable is not None:
        text += f" (from {variable})"
    proxy = _proxy(urlsplit(address).scheme)
    if proxy is not None:
        text += f", through the proxy of {proxy},"
    return text


def _address(error: Exception) -> str:
    parts = urlsplit(_url(error))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _proxy(scheme: str) -> str | None:
    """Return the variable that names a proxy for this scheme."""
    for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY"):
        if os.environ.get(name):
            return name
    return None


def _transport_reason(text: str) -> str:
    """Return why no connection was made."""
    message = re.search(r'(?:message|error): "([^"]+)"', text)
    if message is not None:
        return message[1]
    if "TimedOut" in text:
        return "no connection in time"
    if "InvalidContentType" in text:
        return "it does not speak TLS, so its address must begin with http://"
    certificate = re.search(r"InvalidCertificate\(\s*(\w+)", text)
    if certificate is not None:
        return f"its certificate is not valid ({certificate[1]})"
    return "no connection"


def _url(error: Exception) -> str:
    """Return the address of the request that failed; empty if it is not said."""
    return _first_group(r"Error performing \w+ (\S+) in ", error)


def _shortened(text: str) -> str:
    return " ".join(text.split())[:240]
