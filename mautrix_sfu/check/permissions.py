"""Whether anybody may use the focus and command its bot: who has no entry under `bot.permissions` may do nothing."""

from __future__ import annotations

from ..config import Config, Permission
from ..findings import Finding, fail, ok, warn

EVERYBODY = "*"


def permissions(config: Config) -> list[Finding]:
    """What the entries mean for calls, and for the bot."""
    given = config.bot.permissions
    permitted = {who: level for who, level in given.items() if level is not Permission.NONE}
    domain = config.homeserver.domain
    found: list[Finding] = []
    if not permitted:
        remedy = f'put "{domain}": use or "*": use under bot.permissions'
        return [fail("Nobody may use this focus in calls: no entry of bot.permissions says use or admin", remedy)]
    here = given.get(domain, given.get(EVERYBODY, Permission.NONE))
    if here is Permission.NONE:
        named = sorted(who for who in permitted if who.endswith(f":{domain}"))
        who = f"Of {domain} only those who are named ({', '.join(named[:3])}{', ...' if named[3:] else ''})"
        found.append(
            warn(
                f"{who if named else f'Nobody of {domain}'} may use this focus in calls",
                f'if that is not meant: put "{domain}": use or "*": use under bot.permissions',
            )
        )
    if Permission.ADMIN not in given.values():
        found.append(warn("Nobody may command the bot", "give an admin's user id the level admin in bot.permissions"))
    return found or [ok("The permissions let people use this focus, and somebody command it")]
