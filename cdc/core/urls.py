"""URLs that may hold passwords: checking them, completing them, and showing them without the secrets.

What is wrong with a URL is always said without quoting it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from cdc.core.errors import ConfigError

HIDDEN: Final = "***"

_URL: Final = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BAD_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(?::(?P<port>.*))?", re.DOTALL)
# The last @, not the first: a password with an @ that should have been %40 must be hidden whole.
_PASSWORD: Final = re.compile(r"(?<=://)(?P<user>[^:]*):.*@", re.DOTALL)
_SECRET_PARAMETER: Final = re.compile(
    r"(?P<name>[^=&?\s]*(?:password|passwd|pwd|secret|token)[^=&\s]*)\s*=\s*(?:'[^']*'|[^&\s]*)", re.IGNORECASE
)
_UNRESERVED: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

_ENCODE: Final = "Percent-encode what does not belong there: in a password, @ is %40, / is %2F, : is %3A, % is %25."


def redact(url: str) -> str:
    """The URL, or a text with one in it, with `***` for the password and for parameters that are called like secrets.
    Of a malformed URL it hides too much rather than too little.
    """
    return _SECRET_PARAMETER.sub(rf"\g<name>={HIDDEN}", _PASSWORD.sub(rf"\g<user>:{HIDDEN}@", url))


def percent_encode(text: str, *, keep: str = "") -> str:
    """`text` as it has to stand inside a URL. Python keeps bytes of the environment that are no UTF-8 as surrogates."""
    kept = _UNRESERVED.union(keep.encode())
    return "".join(chr(byte) if byte in kept else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogateescape"))


def scheme(url: str) -> str:
    """ConfigError if it is not a URL at all."""
    return _split(url)["scheme"].lower()


def require_url(url: str, schemes: Collection[str] = ()) -> str:
    """The URL itself, if it is well-formed and of one of these schemes (of any, if there are none)."""
    parts = _split(url)
    if schemes and parts["scheme"] not in schemes:
        expected = " or ".join(f"{each}://" for each in schemes)
        raise ConfigError(f"the URL starts with {parts['scheme']}://", mend=f"It has to start with {expected}.")
    if parts["scheme"].startswith("sqlite"):
        _require_file(parts["authority"], parts["rest"])
    else:
        _require_authority(parts["authority"])
        if _BAD_PERCENT.search(parts["rest"]):
            raise ConfigError("the URL has a % that encodes nothing", mend=_ENCODE)
    return url


def require_host(url: str, schemes: Collection[str]) -> str:
    require_url(url, schemes)
    if not all(_split(url)["authority"].rpartition("@")[2].split(",")):
        raise ConfigError("the URL names no host", mend=f"Write {next(iter(schemes))}://HOST:PORT.")
    return url


def _split(url: str) -> re.Match[str]:
    parts = _URL.fullmatch(url)
    if parts is None:
        raise ConfigError("this is not a URL", mend="Write SCHEME://…")
    if _CONTROL.search(url):
        raise ConfigError(
            "the URL holds a line break or another control character",
            mend="Take it out; a file's last line break is easily taken along into a variable.",
        )
    return parts


def _require_authority(authority: str) -> None:
    user, _, hosts = authority.rpartition("@")
    if "@" in user or _BAD_PERCENT.search(authority) or " " in authority:
        raise ConfigError("the URL is malformed before or in the host", mend=_ENCODE)
    for host in hosts.split(","):
        parts = _HOST.fullmatch(host)
        port = parts and parts["port"]
        if parts is None or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
            raise ConfigError("the URL has a port that is not a number from 1 to 65535", mend=_ENCODE)


def _require_file(authority: str, rest: str) -> None:
    path = rest.removeprefix("/").partition("?")[0]
    if authority or not path:
        raise ConfigError(
            "the URL names no file",
            mend="Write sqlite:///file.db, with three slashes, or sqlite:////full/path/file.db.",
        )
