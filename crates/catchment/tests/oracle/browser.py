"""A browser for a test: Chromium without a window, asked by lines of standard input, each answered by a line of JSON.

Usage: browser.py URL [--without-script]. `text CSS`: the text of an element; `until CSS TEXT`: milliseconds until it has that text;
`count CSS`: how many elements there are; `errors`: what the browser complained of; `reload`.
"""

import json
import sys
import time

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

options = webdriver.ChromeOptions()
options.binary_location = "/usr/bin/chromium"
for option in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1400,1600"]:
    options.add_argument(option)
options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
if "--without-script" in sys.argv:
    options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
browser = None


def text(css):
    """The text of an element, whichever page is just being loaded."""
    begun = time.monotonic()
    while True:
        try:
            return browser.find_element(By.CSS_SELECTOR, css).text
        except (NoSuchElementException, StaleElementReferenceException):
            if time.monotonic() > begun + 30:
                raise
            time.sleep(0.02)


browser = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
try:
    browser.get(sys.argv[1])
    for line in sys.stdin:
        words = line.rstrip("\n").split(" ", 2)
        if words[0] == "text":
            answer = text(words[1])
        elif words[0] == "until":
            begun = time.monotonic()
            while text(words[1]) != words[2]:
                if time.monotonic() > begun + 30:
                    raise TimeoutError(f"{words[1]} is {text(words[1])!r}")
                time.sleep(0.02)
            answer = round(1000 * (time.monotonic() - begun))
        elif words[0] == "count":
            answer = len(browser.find_elements(By.CSS_SELECTOR, " ".join(words[1:])))
        elif words[0] == "errors":
            answer = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        elif words[0] == "reload":
            browser.refresh()
            answer = None
        print(json.dumps(answer), flush=True)
finally:
    browser.quit()
