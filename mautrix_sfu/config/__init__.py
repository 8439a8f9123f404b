"""The operator's configuration: read, checked, kept up to date on disk, and turned into a registration."""

from .file import ConfigFile, write_atomically
from .model import (
    AppserviceConfig,
    BotConfig,
    CascadeConfig,
    ConferenceConfig,
    Config,
    DatabaseConfig,
    HomeserverConfig,
    HttpConfig,
    LimitsConfig,
    MediaConfig,
    MetricsConfig,
    Permission,
)
from .options import ConfigError, example_text, parse
from .registration import generate, new_token

__all__ = [
    "AppserviceConfig",
    "BotConfig",
    "CascadeConfig",
    "ConferenceConfig",
    "Config",
    "ConfigError",
    "ConfigFile",
    "DatabaseConfig",
    "HomeserverConfig",
    "HttpConfig",
    "LimitsConfig",
    "MediaConfig",
    "MetricsConfig",
    "Permission",
    "example_text",
    "generate",
    "new_token",
    "parse",
    "write_atomically",
]
