"""Asks a focus in this container whether it is alive, at the address that its configuration says; exit code 0 if so."""

import urllib.request
from pathlib import Path

from mautrix_sfu.config import ConfigFile

http = ConfigFile.read(Path("/data/config.yaml")).parse().http
urllib.request.urlopen(f"http://{http.hostname}:{http.port}/health", timeout=4).close()
