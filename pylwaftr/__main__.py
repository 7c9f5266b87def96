"""`python -m pylwaftr`: the command, where its script is not on the path."""

from pylwaftr.cli.main import main

if __name__ == "__main__":
    main(prog_name="pylwaftr")
