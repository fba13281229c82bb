"""`python -m grpo_tta`: the command line."""

from grpo_tta.cli.main import main

if __name__ == "__main__":
    main()
