"""Other WireGuard implementations that run as programs: how each is started with a TUN interface {if} of its own."""
import os
import shutil

# Name: command, environment.
COMMANDS = {
    "wireguard-go": (["wireguard-go", "-f", "{if}"], {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}),
    "boringtun-cli": (["boringtun-cli", "-f", "--disable-drop-privileges", "{if}"], {"WG_SUDO": "1"}),
    "gotatun": (["gotatun", "-f", "--disable-drop-privileges", "{if}"], {"WG_SUDO": "1"}),
}


def command(name, folder):
    """Command and environment of one, which scripts/peers.sh may have installed below `folder`; `None` if it is not there."""
    words, environment = COMMANDS[name]
    program = shutil.which(words[0], path=os.pathsep.join([folder, os.environ["PATH"]]))
    return ([program, *words[1:]], environment) if program else None
