"""The operator's configuration: read, checked, kept up to date on disk, and turned into a registration."""

from .file import ConfigFile, write_atomically
from .limits import DEFAULT_LIMITS, LIMITS, Limit, LimitError, Limits, limit_named
from .model import (
    AppserviceConfig,
    BotConfig,
    CascadeConfig,
    ConferenceConfig,
    Config,
    DatabaseConfig,
    HomeserverConfig,
    HttpConfig,
    MediaConfig,
    MetricsConfig,
    Permission,
)
from .options import ConfigError, example_text, parse
from .registration import generate, new_token

__all__ = [
    "DEFAULT_LIMITS",
    "LIMITS",
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
    "Limit",
    "LimitError",
    "Limits",
    "MediaConfig",
    "MetricsConfig",
    "Permission",
    "example_text",
    "generate",
    "limit_named",
    "new_token",
    "parse",
    "write_atomically",
]
