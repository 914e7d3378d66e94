# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Who may open the teaching page."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import Response

from etuner_ros.core.errors import ConfigError
from etuner_ros.nodes.messages import short

COOKIE = 'etuner_token'
LEAST_TOKEN = 8  # characters
NEVER = '#%&'  # in a token: they mean something in an address


def check_access(host: str, token: str) -> None:
    """
    Refuse to open the page to a network without a token, and tokens that nobody can enter.

    :raises ConfigError: when the address is not of this computer alone and there is no token, or
        when an address with the token would not be read as it is written
    """
    try:
        local = host == 'localhost' or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ConfigError(f"host '{short(host)}' is no address: {error}") from error
    if not local and len(token) < LEAST_TOKEN:
        raise ConfigError(
            f'host {host} opens the page to the network: set a token of at least '
            f'{LEAST_TOKEN} characters, or host to 127.0.0.1'
        )
    if set(token) & set(NEVER) or not token.isprintable() or token != token.strip():
        raise ConfigError(
            f'an address does not carry this token as it is: leave out {" ".join(NEVER)}, '
            'spaces at its ends and what is not printed (`openssl rand -hex 12` makes a good one)'
        )


def _asked(query: bytes) -> bytes:
    """
    Return the token that an address has; empty for none.

    It is no form, in which a plus would be a space: `openssl rand -base64` makes some.
    """
    pairs = (part.partition(b'=') for part in query.split(b'&'))
    return next((unquote_to_bytes(value) for name, _, value in pairs if name == b'token'), b'')


class TokenGuard:
    """Lets nothing through without the token, neither pages nor websockets (ASGI middleware)."""

    def __init__(self, inner: Any, token: str) -> None:
        self.inner, self.token = inner, token
        self.mark = hashlib.sha256(
            token.encode()
        ).hexdigest()  # what a cookie holds: any token makes a valid one
        # Pages of all ports of a host share its cookies, those of several robots as well.
        self.name = f'{COOKIE}_{self.mark[:8]}'

    def _shown(self, header: str) -> str:
        """Return our cookie, whatever those of other pages look like; '' when it is not there."""
        pairs = (part.strip().partition('=') for part in header.split(';'))
        return next((value for name, _, value in pairs if name == self.name), '')

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Look at the cookie, or at the token in the address, which sets the cookie."""
        if scope['type'] not in ('http', 'websocket'):
            await self.inner(scope, receive, send)
            return
        shown = self._shown(dict(scope['headers']).get(b'cookie', b'').decode('latin-1'))
        asked = _asked(scope.get('query_string', b''))
        if hmac.compare_digest(shown.encode(), self.mark.encode()):
            await self.inner(scope, receive, send)
        elif scope['type'] == 'websocket':
            await send({'type': 'websocket.close', 'code': 1008})
        elif hmac.compare_digest(asked, self.token.encode()):
            cookie = f'{self.name}={self.mark}; HttpOnly; SameSite=Lax; Path=/'
            moved = Response(status_code=303, headers={'location': '/', 'set-cookie': cookie})
            await moved(scope, receive, send)
        else:
            text = 'This page needs its token: /?token=... (parameter token of the node)'
            await Response(text, status_code=401)(scope, receive, send)
