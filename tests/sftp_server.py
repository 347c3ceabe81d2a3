"""An SFTP server with the files of this machine: `python sftp_server.py PORT`; user `whale`, password `fluke`."""

from __future__ import annotations

import asyncio
import sys

import asyncssh


class Server(asyncssh.SSHServer):
    """Lets one user in, by password."""

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return (username, password) == ("whale", "fluke")


async def serve(port: int) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    options = {"server_host_keys": [key], "server_factory": Server, "sftp_factory": True}
    await asyncssh.listen("127.0.0.1", port, **options)
    print("the server listens", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
