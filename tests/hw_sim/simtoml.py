"""lane.toml of the lane in virtual time: every link below its drivers is handed in."""

PINS = {
    "mantrap": """a_request = {pin = 2}
a_closed = {pin = 3}
a_open = {pin = 4}
a_outer = {pin = 5}
a_inner = {pin = 6}
a_obstacle = {pin = 7}
presence_one = {pin = 8}
presence_many = {pin = 9}
thing = {pin = 10}
""",
    "single": "",
}
PINS["bidirectional"] = PINS["mantrap"]

CONFIG = """[lane]
id = "sim"
site = "sim"
topology = "{topology}"
direction = "{direction}"
[timing]
{timing}
[policy]
file = "{policy}"
place = "{place}"
[passport]
driver = "elyctis"
port = "memory"
{passport_b}
[camera]
driver = "opencv"
source = "rtsp://memory"
latency_s = 0.02
[door]
driver = "gpio"
factory = "memory"
alive = {{pin = 1}}
b_request = {{pin = 11}}
b_closed = {{pin = 12}}
b_open = {{pin = 13}}
b_outer = {{pin = 14}}
b_inner = {{pin = 15}}
b_obstacle = {{pin = 16}}
fire = {{pin = 17}}
mains = {{pin = 18}}
helper = {{pin = 19}}
{pins}
[indicator]
driver = "gpio"
factory = "memory"
a_green = {{pin = 20}}
a_red = {{pin = 21}}
b_green = {{pin = 22}}
b_red = {{pin = 23}}
{fingerprint}
[face]
threshold = "fmr_1e-3"
weak = "fmr_1e-2"
[store]
dir = "."
[keys]
cache = "cache.key"
cache_on_disk = true
journal = "journal.key"
hq_public = "hq.pub"
orders_public = "orders.pub"
receipts_public = "receipts.pub"
[uplink]
host = "localhost"
[control]
socket = "control.sock"
[models]
dir = "."
"""
