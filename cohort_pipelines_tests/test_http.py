import subprocess
import sys

from cohort_pipelines.standins.server import in_thread
from cohort_pipelines.standins.settings import Settings

ASK = """
import asyncio, logging, sys
from cohort_pipelines import http

async def ask():
    async with http.client(connections=1) as client:
        response = await http.send(client, client.build_request("GET", sys.argv[1]), seconds=10)
        print(response.status_code)

logging.basicConfig(level=logging.DEBUG)
asyncio.run(ask())
"""


def test_no_url_is_logged_whichever_room_asks() -> None:
    with in_thread(Settings(members=10)) as standins:
        url = f"{standins.mixpanel_url}/standin/requests?key=topsecret"
        asked = subprocess.run([sys.executable, "-c", ASK, url], check=True, capture_output=True, text=True)

    assert asked.stdout == "200\n"
    assert "topsecret" not in asked.stderr
