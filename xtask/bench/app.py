"""What the service replaces: the original Flask application, as the peer to measure against."""
import os

from flask import Flask
from redis import Redis

app = Flask(__name__)
redis = Redis(host=os.environ["REDIS_HOST"], port=int(os.environ["REDIS_PORT"]))


@app.route("/")
def hello():
    return f"Hello from Redis! I have been seen {redis.incr('hits')} times.\n"


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["BIND_PORT"]))
