# The one image of capture, appliers and the demo's shop.
FROM python:3.13-slim

RUN useradd --create-home --uid 10001 cdc
WORKDIR /app
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY cdc ./cdc
COPY consumers ./consumers
COPY schemas ./schemas
RUN pip install --no-cache-dir uv \
 && uv pip install --system --no-cache --require-hashes -r requirements.lock \
 && uv pip install --system --no-cache --no-deps . \
 && mkdir /data && chown cdc /data

USER cdc
WORKDIR /data
ENTRYPOINT ["cdc"]
CMD ["--help"]
