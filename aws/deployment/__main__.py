"""`python -m deployment deploy|update|run|destroy …`, as aws/*.sh start it.

Exit status: 0 done, 1 failed, 2 wrong use or precondition, 3 deployed but not verified; of `run` the command's own.
"""

from __future__ import annotations

import os
import sys

import botocore.exceptions

from deployment.account import code, connect
from deployment.arguments import parse
from deployment.deploy import deploy
from deployment.destroy import destroy
from deployment.errors import Stop
from deployment.output import Output
from deployment.run import run
from deployment.update import update

INTERRUPTED = 130


def main() -> int:
    out = Output()
    try:
        options = parse(sys.argv[1:], os.environ)
        account = connect()
        if options.command == "run":
            return run(options, account, out)
        {"deploy": deploy, "update": update, "destroy": destroy}[options.command](options, account, out)
    except Stop as stop:
        out.failure(stop.message, stop.hint)
        return stop.exit_code
    except botocore.exceptions.ClientError as error:
        hint = (
            "What the caller must be allowed: docs/howto/aws-deploy.md, Rights for who deploys."
            if "Denied" in code(error)
            else ""
        )
        out.failure(f"AWS: {error}", hint)
        return 1
    except botocore.exceptions.BotoCoreError as error:
        out.failure(f"AWS cannot be asked: {error}", "Run this command again: it goes on from where it was.")
        return 1
    except KeyboardInterrupt:
        out.failure("Interrupted. What AWS is doing goes on.", "Run this command again: it follows what is under way.")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
