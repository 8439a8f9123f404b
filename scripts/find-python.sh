#!/bin/sh
# Prints the newest Python of 3.11 or later on PATH that can make virtual environments; says nothing if there is none.
# A name on PATH proves nothing (pyenv has shims for versions that are not active), so each candidate is run.
best= best_minor=10
for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do
    path=$(command -v "$name") || continue
    minor=$("$path" -c 'import ensurepip, sys, venv; print(sys.version_info.minor if sys.version_info[0] == 3 else 0)' 2>/dev/null) || continue
    if [ "$minor" -gt "$best_minor" ]; then best=$path best_minor=$minor; fi
done
[ -z "$best" ] || echo "$best"
