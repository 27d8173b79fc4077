"""Receives what is told: webhooks (checked by the library of Standard Webhooks), mails, and an SNS topic's messages.

Usage: receive.py SECRET MODE_FILE. Prints its ports, then each message, a line of JSON each. While the file
says "down", webhooks are answered with 500; while it says "down TEXT", those that hold the text; while it says
"slow", none is answered; without the file, they are taken.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiosmtpd.controller import Controller
from standardwebhooks import Webhook

secret, mode_file = sys.argv[1], sys.argv[2]
printing = threading.Lock()


def tell(**what):
    with printing:
        print(json.dumps(what), flush=True)


def mode():
    try:
        with open(mode_file) as file:
            return file.read().strip()
    except FileNotFoundError:
        return "up"


class Hook(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        now = mode()
        while mode() == "slow":
            time.sleep(0.1)
        if now == "down" or (now.startswith("down ") and now[5:] in body.decode()):
            tell(kind="refused", id=self.headers["webhook-id"])
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b"out of order")
            return
        message = Webhook(secret).verify(body, dict(self.headers.items()))
        assert message["id"] == self.headers["webhook-id"]
        tell(kind="webhook", message=message)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Mails:
    async def handle_DATA(self, server, session, envelope):
        text = envelope.content.decode()
        tell(kind="mail", sender=envelope.mail_from, to=envelope.rcpt_tos, text=text)
        return "250 OK"


hooks = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
threading.Thread(target=hooks.serve_forever, daemon=True).start()


class AnyPort(Controller):
    """The library connects to the port it was given, which must be free before."""


def free_port():
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


mails = AnyPort(Mails(), hostname="127.0.0.1", port=free_port())
mails.start()
tell(webhook=hooks.server_address[1], mail=mails.port)
sys.stdin.read()
os._exit(0)
