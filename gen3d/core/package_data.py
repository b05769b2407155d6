"""Tables, templates and texts that the package ships beside its modules."""

from __future__ import annotations

from importlib.resources import files

from gen3d.core.errors import UserError


def package_text(package: str, name: str) -> str:
    """A text file of a package such as `gen3d.cohort`.

    Raises:
        UserError: the installation lacks it.
    """
    place = files(package).joinpath(name)
    try:
        return place.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{place}: cannot be read ({error.strerror}), so this installation of gen3d is not whole; "
            "`pip install --force-reinstall --no-deps gen3d` mends it."
        ) from None
