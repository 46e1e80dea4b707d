"""``python -m spore_borg``: the command line, where its scripts are not on the PATH."""

from spore_borg.cli import main

if __name__ == "__main__":
    main()
