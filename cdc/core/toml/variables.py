"""`${NAME}` in a value is the environment's variable of that name; `$${` is `${` itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from cdc.core.errors import ConfigError
from cdc.core.urls import percent_encode

_REFERENCE: Final = re.compile(r"(?P<escape>\$)?\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\})?")
_USERINFO: Final = re.compile(
    r"[A-Za-z][A-Za-z0-9+.-]*://(?P<user>[^:/?#]*?)(?P<password>:[^/?#]*)?@(?=[^@/?#]*(?:[/?#]|$))"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def expand(text: str, environ: Mapping[str, str]) -> str:
    """`text` with its variables' values, which are not expanded again. ConfigError for one that is not set.

    Before the `@` of a URL a value is percent-encoded, so that a variable holds the password itself: raw, one with an
    `@` or a `/` would be read as another host, and shown as one. A variable there may also hold `user:password`.
    """
    userinfo = _USERINFO.match(text)
    if userinfo is None:
        return _expand(text, environ)
    user, password = userinfo["user"], userinfo["password"] or ""
    return (
        text[: userinfo.start("user")]
        + _expand(user, environ, in_url=True, keep=":" if not password else "")
        + _expand(password, environ, in_url=True)
        + _expand(text[userinfo.end() - 1 :], environ)
    )


def _expand(text: str, environ: Mapping[str, str], *, in_url: bool = False, keep: str = "") -> str:
    def value(reference: re.Match[str]) -> str:
        if reference["escape"]:
            return reference[0].removeprefix("$")
        found = _look_up(reference["name"], environ)
        if not in_url:
            return found
        if _CONTROL.search(found):
            raise ConfigError(
                f"the environment variable {reference['name']} holds a line break or another control character",
                mend="Set it without: a file's last line break is easily taken along.",
            )
        return percent_encode(found, keep=keep)

    return _REFERENCE.sub(value, text)


def _look_up(name: str | None, environ: Mapping[str, str]) -> str:
    if name is None:
        raise ConfigError(
            "${ is not followed by a variable's name and }",
            mend="Write ${NAME} (letters, digits and _), or $${ for ${ itself.",
        )
    if name not in environ:
        raise ConfigError(
            f"the environment variable {name} is not set", mend=f"Set {name}, or write $${{ for ${{ itself."
        )
    return environ[name]
