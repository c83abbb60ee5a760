"""Takes TLS off in front of the adapters: `tls.py DIRECTORY TARGET…` makes a certificate for
`localhost` in DIRECTORY, serves each TARGET (http://address:port) on a free port, writes the ports
to DIRECTORY/ports, and runs until it is ended. A side that hangs up is hung up on at the other."""

import asyncio
import datetime
import os
import ssl
import sys
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def make_certificate(path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    with open(path, "wb") as file:
        file.write(certificate.public_bytes(serialization.Encoding.PEM))
    with open(f"{path}.key", "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def serve(target):
    address = urlsplit(target)

    async def connected(reader, writer):
        try:
            upstream, to_upstream = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            writer.close()
            return
        ways = [asyncio.create_task(copy(reader, to_upstream)), asyncio.create_task(copy(upstream, writer))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        to_upstream.close()
        writer.close()

    return connected


async def main(directory, *targets):
    certificate = os.path.join(directory, "certificate.pem")
    make_certificate(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, f"{certificate}.key")
    servers = [
        await asyncio.start_server(await serve(target), "127.0.0.1", 0, ssl=context)
        for target in targets
    ]
    ports = [str(server.sockets[0].getsockname()[1]) for server in servers]
    with open(os.path.join(directory, "ports.new"), "w") as file:
        file.write(" ".join(ports))
    os.rename(os.path.join(directory, "ports.new"), os.path.join(directory, "ports"))
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main(*sys.argv[1:]))
