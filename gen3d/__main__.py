"""`python -m gen3d`, for launchers such as torchrun."""

from gen3d.cli import entry

if __name__ == "__main__":
    entry()
