"""`kwb tls`: certificates for the door of the local stack. Needs no server, no settings and no home folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output

if TYPE_CHECKING:
    from kafka_webhook_bridge.stack.certificates import Held

_Folder = Annotated[Path, typer.Option("--folder", help="Where ca.pem, tls/server.pem and tls/server.key are.")]


def register(app: typer.Typer) -> None:
    """`kwb tls make`, `kwb tls show`."""
    tls = typer.Typer(no_args_is_help=True)
    app.add_typer(tls, name="tls", help="Make and show the certificates of the local stack.")

    @tls.command()
    def make(
        domain: Annotated[str, typer.Option("--domain", help="webhooks., kafka. and console. of it are the names.")],
        folder: _Folder,
        authority: Annotated[Path, typer.Option("--authority", help="Where the authority's key stays.")],
        renew: Annotated[bool, typer.Option("--renew", help="Make the server's certificate anew now.")] = False,
        json: Json = False,
    ) -> None:
        """Make what is missing, renew what is nearly over. A certificate of your own is left alone and checked."""
        run_make(domain, folder, authority, renew, Output(json=json))

    @tls.command()
    def show(
        folder: _Folder,
        domain: Annotated[
            str | None, typer.Option("--domain", help="Compare the names with this one.", show_default=False)
        ] = None,
        json: Json = False,
    ) -> None:
        """Names, issuer and time left. Ends with 1 when clients refuse it, or will within a week."""
        run_show(folder, domain, Output(json=json))


def run_make(domain: str, folder: Path, authority: Path, renew: bool, out: Output) -> None:
    from kafka_webhook_bridge.stack.certificates import make

    made = make(domain, folder, authority, renew=renew)
    out.data({"done": list(made.done), **_facts(made.held)})
    for sentence in made.done:
        out.say(sentence)
    if not made.done:
        whose = "Your own certificate is used" if made.held.own else "Nothing to do"
        out.say(f"{whose}: {made.held.certificate.days_left()} days are left.")
    _tell_troubles(made.held, out)


def run_show(folder: Path, domain: str | None, out: Output) -> None:
    from kafka_webhook_bridge.stack.certificates import look

    held = look(folder, domain)
    out.data(_facts(held))
    certificate = held.certificate
    out.say(f"{folder / 'tls' / 'server.pem'}: {'your own' if held.own else 'made by kwb tls make'}", "bold")
    out.say(f"  names    {', '.join(certificate.names) or 'none'}")
    out.say(f"  issuer   {certificate.issuer}")
    out.say(f"  expires  {certificate.not_after:%Y-%m-%d %H:%M} UTC, in {certificate.days_left()} days")
    if held.authority is not None:
        out.say(f"  ca.pem   {held.authority.subject}, until {held.authority.not_after:%Y-%m-%d}")
    _tell_troubles(held, out)
    if held.troubles:
        raise typer.Exit(FOUND_PROBLEM)


def _facts(held: Held) -> dict[str, Any]:
    certificate, authority = held.certificate, held.authority
    return {
        "own": held.own,
        "names": certificate.names,
        "issuer": certificate.issuer,
        "not_before": certificate.not_before,
        "not_after": certificate.not_after,
        "days_left": certificate.days_left(),
        "authority": authority and {"subject": authority.subject, "not_after": authority.not_after},
        "verified": held.verified,
        "troubles": held.troubles,
    }


def _tell_troubles(held: Held, out: Output) -> None:
    for trouble in held.troubles:
        out.note(trouble.what, "yellow")
        out.note(f"  → {trouble.todo}", "cyan")
