"""The addresses of tracking stores: one spelling for each, and no passwords in them."""

from urllib.parse import urlsplit, urlunsplit

from catdog.system.errors import UserError

_PORTS = {"http": 80, "https": 443}
_THIS_HOST = ("localhost", "::1", "127.0.0.1")


def canonical_address(uri: str) -> str:
    """Returns a server's address as catdog writes it: runs that belong to one store are found by its address.

    Host names are in small letters, this host is 127.0.0.1, and there is no port that is the default, nor a slash at the end. Other
    kinds of address are returned as they are.

    Raises:
        UserError: it contains a password, which would be shown in commands, and recorded.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError:
        return uri
    if parts.password:
        shown = uri.replace(f":{parts.password}@", ":***@")
        advice = (
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead."
            if parts.scheme in _PORTS
            else "Leave it to the database's own file of passwords, such as ~/.pgpass of PostgreSQL."
        )
        raise UserError(
            f"tracking.uri: must not contain a password, which would be recorded with the runs, received {shown}. {advice}"
        )
    if parts.scheme not in _PORTS or not parts.hostname:
        return uri
    host = "127.0.0.1" if parts.hostname in _THIS_HOST else parts.hostname
    host = f"[{host}]" if ":" in host else host
    place = host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"
    user = f"{parts.username}@" if parts.username else ""
    return urlunsplit((parts.scheme, user + place, parts.path.rstrip("/"), parts.query, ""))
