"""The server's TLS certificate and key."""

import ssl

from vram_llm.errors import BadCertificate
from vram_llm.server.config import ServerConfig


def check_certificate(config: ServerConfig) -> None:
    """Raises BadCertificate if the certificate of `config` cannot be used."""
    if config.ssl_certfile is not None:
        load_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), config)


def load_certificate(context: ssl.SSLContext, config: ServerConfig) -> None:
    """Use the certificate of `config` for connections made from now on. Raises BadCertificate."""
    assert config.ssl_certfile is not None
    try:
        # the password: without one, OpenSSL would ask at the terminal for an encrypted key's
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise BadCertificate(
            f"the certificate {config.ssl_certfile} cannot be used: {error.strerror or error}; give PEM "
            "files, --ssl-certfile with the certificate and --ssl-keyfile with its key, not encrypted"
        ) from None
