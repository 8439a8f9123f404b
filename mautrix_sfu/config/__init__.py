"""The operator's configuration: read, checked, kept up to date on disk, and turned into a registration."""

from .changes import Changes, changes, with_live
from .file import ConfigFile, set_up_logging, write_atomically
from .limits import DEFAULT_LIMITS, LIMITS, Limit, LimitError, Limits, limit_named
from .model import (
    AppserviceConfig,
    BotConfig,
    CascadeConfig,
    ConferenceConfig,
    Config,
    DatabaseConfig,
    DrainConfig,
    EncryptionConfig,
    HomeserverConfig,
    HttpConfig,
    MediaConfig,
    MetricsConfig,
    NoticesConfig,
    OverloadConfig,
    Permission,
    TracingConfig,
)
from .options import ConfigError, example_text, parse
from .registration import generate, new_token

__all__ = [
    "DEFAULT_LIMITS",
    "LIMITS",
    "AppserviceConfig",
    "BotConfig",
    "CascadeConfig",
    "Changes",
    "ConferenceConfig",
    "Config",
    "ConfigError",
    "ConfigFile",
    "DatabaseConfig",
    "DrainConfig",
    "EncryptionConfig",
    "HomeserverConfig",
    "HttpConfig",
    "Limit",
    "LimitError",
    "Limits",
    "MediaConfig",
    "MetricsConfig",
    "NoticesConfig",
    "OverloadConfig",
    "Permission",
    "TracingConfig",
    "changes",
    "example_text",
    "generate",
    "limit_named",
    "new_token",
    "parse",
    "set_up_logging",
    "with_live",
    "write_atomically",
]
