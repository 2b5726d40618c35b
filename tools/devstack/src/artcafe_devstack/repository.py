"""Where the checkout lies from which this package is installed."""

from pathlib import Path

from artcafe_devstack.process import StackError


def repository_root() -> Path:
    """Return the root of the checkout: the stack runs the templates that lie beside it.

    Raises:
        StackError: the package was installed without its checkout.
    """
    root = Path(__file__).resolve().parents[4]
    if not (root / "edge" / "nginx.conf.template").is_file():
        raise StackError("the stack runs from a checkout of ArtCafe PubSub: install it with `make setup`")
    return root
