"""Start auth, or carry out one of its commands."""

from __future__ import annotations

from artcafe_auth.commands import main

if __name__ == "__main__":
    main()
