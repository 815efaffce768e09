"""Sends the messages of a file of initiations in bursts, each of which is more than can be answered at once, and between which
others come through: flood.py FILE ADDRESS PORT SECONDS"""
import socket
import sys
import time

LENGTH = 148
# Seconds between bursts: who has been under load stays so for one.
PAUSE = 0.3


def main():
    path, address, port, seconds = sys.argv[1:]
    data = open(path, "rb").read()
    messages = [data[start:start + LENGTH] for start in range(0, len(data), LENGTH)]
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect((address, int(port)))
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for message in messages:
            try:
                sender.send(message)
            except OSError:
                pass  # refused, or its buffer is full
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
