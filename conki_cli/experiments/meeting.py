"""Where several machines meet for one training: the HOST:PORT of `--rendezvous`."""

import re
import socket
from dataclasses import dataclass

from conki_cli.system.errors import SettingsError, one_line

PORT = 29400
"""The port if none is given, as in torchrun."""
_MUST = "--rendezvous must be HOST:PORT of one of the machines"


@dataclass(frozen=True)
class Meeting:
    """A port of one of the machines."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return HOST:PORT, as torchrun reads it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def check(self) -> None:
        """Refuse a host that this machine does not know.

        Raises:
            SettingsError: its name has no address.
        """
        try:
            socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise SettingsError(
                f"'{self.host}', which has no address here",
                f"give a name that `ping` finds, or its IP address, as in 10.0.0.1:{self.port}",
                must=_MUST,
            ) from error


def parse_meeting(text: str) -> Meeting:
    """Read HOST or HOST:PORT; an IPv6 address with a port is written in brackets.

    Raises:
        SettingsError: it is neither.
    """
    named = re.fullmatch(r"\[(?P<v6>[0-9A-Fa-f:.]+)\](?::(?P<p6>.*))?|(?P<host>[\w.-]+)(?::(?P<port>.*))?", text)
    host, port = (named["v6"] or named["host"], named["p6"] or named["port"]) if named is not None else ("", None)
    number = PORT if port is None else int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0
    if named is None or text.endswith(":") or not 0 < number < 2**16:
        raise SettingsError(f"'{one_line(text)[:80]}'", f"give a port from 1 to 65535, as in node1:{PORT}", must=_MUST)
    return Meeting(host, number)
