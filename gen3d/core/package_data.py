"""Tables, templates, texts and settings to start from that the package ships beside its modules."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from gen3d.core.errors import UserError

PACKAGE = Path(__file__).parents[1]
README, CONFIGS = "README.md", "configs"
MEND = "so this installation of gen3d is not whole; `pip install --force-reinstall --no-deps gen3d` mends it."


def package_text(package: str, name: str) -> str:
    """A text file of a package such as `gen3d.cohort`.

    Raises:
        UserError: the installation lacks it.
    """
    place = files(package).joinpath(name)
    try:
        return place.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({error.strerror}), {MEND}") from None


def checkout() -> Path | None:
    """The folder of sources that this gen3d is run from; None where it was installed without them."""
    beside = PACKAGE.parent
    if (PACKAGE / CONFIGS).is_dir():  # an installed package; what lies beside it belongs to others
        return None
    return beside if (beside / README).is_file() and (beside / CONFIGS).is_dir() else None


def configs_folder() -> Path:
    """The folder of the settings that come with this gen3d: `configs` of its checkout, or `gen3d/configs` as installed."""
    return (checkout() or PACKAGE) / CONFIGS
